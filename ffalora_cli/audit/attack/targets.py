"""Builds the targets of the inversion attack: a random surrogate, and a run's own model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ffalora_cli import keys
from ffalora_cli.audit.attack.inversion import Sentences
from ffalora_cli.config.schema import AdapterConfig, Config
from ffalora_cli.tasks.targets import Targets

if TYPE_CHECKING:
    from ffalora_cli.models.network import Network
    from ffalora_cli.types import Examples

VOCABULARY = 2000


def random_network(rank: int, seed: int) -> Network:
    """A random RoBERTa of two layers, 128 wide, 2,000 words, two classes."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from ffalora_cli.models.backbone import Backbone
    from ffalora_cli.models.network import build_network
    from ffalora_cli.tasks.text_classification import TASK

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
        model = (
            AutoModelForSequenceClassification.from_config(settings).eval().requires_grad_(False)
        )
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
    from ffalora_cli.models.network import load_network

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
    from ffalora_cli.experiment import population
    from ffalora_cli.models.backbone import load_tokenizer

    data, found = population.load(config, load_tokenizer(config.model))
    return data.train, found.clients.num_units


def shuffled(rows: Sentences, seed: int) -> Sentences:
    """The same rows in a random order: files are often sorted by label."""
    order = keys.numpy_generator(keys.derive(seed, "shuffled")).permutation(len(rows.tokens))
    return Sentences(rows.tokens[order], rows.targets.take(order))
