"""Builds the targets of the inversion attack: a random surrogate, and a run's own model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from ffalora_cli import keys
from ffalora_cli.audit.attack.inversion import Sentences
from ffalora_cli.config.schema import AdapterConfig, Config
from ffalora_cli.data.encode import Encoded
from ffalora_cli.experiment import population
from ffalora_cli.models.backbone import Backbone, load_tokenizer
from ffalora_cli.models.network import Network, build_network, load_network
from ffalora_cli.tasks.targets import Targets
from ffalora_cli.tasks.text_classification import TASK
from ffalora_cli.types import Examples

VOCABULARY = 2000


@dataclass(frozen=True)
class Victim:
    """What is attacked; every network and every batch of rows is made anew.

    Attributes:
        name: in the figures.
        title: in the table.
        rows: attacked one by one.
        public: positions at the start that are no secret (special tokens).
        network: rank of the adapters -> network.
        sentences: (rows, length) -> token rows.
    """

    name: str
    title: str
    rows: int
    public: int
    network: Callable[[int], Network]
    sentences: Callable[[int, int], Sentences]


def victims(config: Config, examples: Examples) -> tuple[Victim, Victim]:
    """A random surrogate, and the model of a run on its training rows."""
    return (
        Victim(
            "surrogate",
            "random RoBERTa, random words",
            10,
            0,
            lambda rank: random_network(rank, 0),
            lambda rows, length: random_sentences(rows, length, 0),
        ),
        Victim(
            "model",
            f"{config.model.name}, rows of {config.task.name}",
            3,
            1,
            lambda rank: own_network(config, rank),
            lambda rows, length: own_sentences(examples, rows, length),
        ),
    )


def random_network(rank: int, seed: int) -> Network:
    """A random RoBERTa of two layers, 128 wide, 2,000 words, two classes."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    settings = AutoConfig.for_model(
        "roberta",
        vocab_size=VOCABULARY,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=66,
        num_labels=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(settings)
    model.eval().requires_grad_(False)
    adapter = AdapterConfig(rank, float(rank), "query_value", "kaiming", seed, 0.0)
    targets = ("attention.self.query", "attention.self.value")
    return build_network(Backbone(model, "surrogate", (), TASK), adapter, targets)


def random_sentences(rows: int, length: int, seed: int) -> Sentences:
    """Random words (no special ones) with random labels."""
    generator = keys.numpy_generator(keys.derive(seed, "sentences", length))
    words = generator.integers(10, VOCABULARY, (rows, length))
    return Sentences(words, Targets(generator.integers(0, 2, rows)))


def own_network(config: Config, rank: int) -> Network:
    """The run's pretrained model with adapters of this rank."""
    adapter = replace(config.adapter, rank=rank)
    return load_network(config.model, adapter, config.head, config.task)


def own_sentences(examples: Examples, rows: int, length: int) -> Sentences:
    """The first tokens of real rows that have enough of them, evenly over the training set."""
    enough = np.flatnonzero(np.asarray(examples.lengths) >= length)
    chosen = enough[np.linspace(0, len(enough) - 1, min(rows, len(enough))).astype(np.int64)]
    tokens = np.stack([examples.packed(np.array([r]))[0].numpy()[:length] for r in chosen])
    return Sentences(tokens, examples.targets.take(chosen))


def own_rows(config: Config) -> tuple[Examples, np.ndarray]:
    """The run's tokenised training rows, and units of each client int64 ``[num_clients]``."""
    data, found = population.load(config, load_tokenizer(config.model))
    assert isinstance(data.train, Encoded)  # ``ffalora attack`` refuses all but texts
    return data.train, found.clients.num_units


def shuffled(rows: Sentences, seed: int) -> Sentences:
    """The same rows in a random order: files are often sorted by label."""
    order = keys.numpy_generator(keys.derive(seed, "shuffled")).permutation(len(rows.tokens))
    return Sentences(rows.tokens[order], rows.targets.take(order))
