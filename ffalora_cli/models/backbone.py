"""Loads a frozen pretrained backbone with a freshly drawn, seeded head."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from ffalora_cli import keys
from ffalora_cli.adapters.sites import FAMILIES
from ffalora_cli.config.errors import ConfigError, brief
from ffalora_cli.config.schema import HeadConfig, ModelConfig, TaskConfig
from ffalora_cli.hub.access import Note, silent
from ffalora_cli.hub.model_files import (
    Part,
    check_sentencepiece,
    model_folder,
    pinned_commit,
)
from ffalora_cli.models.families.padding import finds_last, name_padding
from ffalora_cli.models.families.vision import allow_any_size
from ffalora_cli.models.fingerprint import fingerprint_tensors
from ffalora_cli.models.reading import quiet_transformers, readable_errors
from ffalora_cli.models.source import no_tokenizer, packed_file, resolve_source
from ffalora_cli.tasks import registry
from ffalora_cli.tasks.base import Task

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


Weights = Literal["loaded", "random", "none"]


@dataclass(frozen=True)
class Backbone:
    """A frozen model of a task in eval mode, and where its weights came from."""

    model: PreTrainedModel
    fingerprint: str  # BLAKE2b of the loaded frozen weights, the head left out
    drawn: tuple[str, ...]  # head parameters that the checkpoint lacked and the head seed drew
    task: Task
    rest: str = ""  # BLAKE2b of what else decides its function: configuration, head as loaded
    real: bool = True  # whether the weights have values


def pin_model(config: ModelConfig, note: Note = silent) -> ModelConfig:
    """The model with its revision turned into the commit that is loaded from now on.

    A folder or package has none and stays as it is; a model inside one file is unpacked here.

    Raises:
        ConfigError: the source cannot be found or reached.
    """
    path = _here(config, note)
    if Path(path).is_dir():
        return config
    return replace(config, revision=pinned_commit(path, config.revision, note))


def model_origin(config: ModelConfig) -> dict[str, str | None]:
    """Source of a pinned model, its commit, and what was done to it, for the records."""
    hub = not Path(resolve_source(config.source, config.cache)).is_dir()
    origin = {"source": config.source, "commit": config.revision if hub else None}
    packed = packed_file(config)
    return origin if packed is None else {**origin, "weights": packed.about}


def _here(config: ModelConfig, note: Note) -> str:
    """The model's folder, unpacked where it was one file; or a repository of the hub."""
    packed = packed_file(config)
    return resolve_source(config.source) if packed is None else str(packed.run(note))


def local_folder(config: ModelConfig, part: Part, note: Note) -> str:
    """The folder of a model: its own, or the hub's cache with the wanted part in it."""
    path = _here(config, note)
    if Path(path).is_dir():
        return path
    commit = pinned_commit(path, config.revision)
    return str(model_folder(path, commit, part, config.revision, note))


def load_tokenizer(config: ModelConfig, note: Note = silent) -> PreTrainedTokenizerBase:
    """The fast tokenizer that belongs to the model; ``note`` is told of a download."""
    from transformers import AutoTokenizer

    folder = local_folder(config, "tokenizer", note)
    check_sentencepiece(Path(folder), config.source)
    with readable_errors(config.source), quiet_transformers():
        # Left open, ``trust_remote_code`` asks on the terminal whether to run the folder's code.
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    # Without files transformers makes one up: special tokens alone, every word unknown or gone.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise no_tokenizer(config)
    return tokenizer


def load_skeleton(config: ModelConfig, task: TaskConfig, note: Note = silent) -> PreTrainedModel:
    """The model's modules as its configuration alone tells: on the meta device, without values.

    Raises:
        ConfigError: the configuration cannot be had, or is of a family that has no such head.
    """
    kind = registry.get(task.kind)
    settings = load_settings(config, note, **_width(kind, task))
    with readable_errors(config.source), quiet_transformers(), torch.device("meta"):
        try:
            model = _auto_class(kind).from_config(settings)
        except ValueError as error:
            raise ConfigError(
                f"model.source={brief(config.source, 60)}: a {settings.model_type} model is no "
                f"{kind.auto_class} (task.kind={task.kind}); supported families are "
                f"{', '.join(FAMILIES)}"
            ) from error
    return _ready(model, kind)


def _ready(model: PreTrainedModel, kind: Task) -> PreTrainedModel:
    """The model so that it takes any size of image, and knows its padding where a head asks."""
    allow_any_size(model)
    if finds_last(model, kind):
        name_padding(model)
    return model


def _width(kind: Task, task: TaskConfig) -> dict[str, int]:
    """What a configuration is told of the last layer; nothing where it is the model's own."""
    width = kind.outputs(task)
    return {"num_labels": width} if width else {}


def _auto_class(kind: Task) -> Any:
    """The class of transformers that loads models of this kind of task."""
    import transformers

    return getattr(transformers, kind.auto_class)


def load_settings(config: ModelConfig, note: Note = silent, **changed: Any) -> PretrainedConfig:
    """The architecture alone: transformers' configuration of the model, no weights.

    Raises:
        ConfigError: it cannot be found, read or reached.
    """
    from transformers import AutoConfig

    folder = local_folder(config, "config", note)
    with readable_errors(config.source), quiet_transformers():
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, **changed)


def load_backbone(
    config: ModelConfig,
    head: HeadConfig,
    task: TaskConfig,
    note: Note = silent,
    weights: Weights = "loaded",
) -> Backbone:
    """Load the task's model, freeze it, and draw what the checkpoint lacks.

    Args:
        config: the model group.
        head: scale (standard deviation of new weights) and seed of the head.
        task: its kind says which class of model, and how wide its last layer is.
        note: is told of a download.
        weights: ``none`` for who needs names and shapes: then they are on the meta device.

    Returns:
        The model in eval mode, every parameter frozen, fp32, on the CPU if it has values.

    Raises:
        ConfigError: the source cannot be found, read or reached.
    """
    kind = registry.get(task.kind)
    if weights == "none":
        model = load_skeleton(config, task, note)
        return Backbone(model.eval().requires_grad_(False), "none", (), kind, real=False)
    if config.random_weights or weights == "random":
        settings = load_settings(config, note, **_width(kind, task))
        with readable_errors(config.source), torch.random.fork_rng(devices=[]):
            torch.manual_seed(keys.torch_seed(keys.derive(head.seed, "random_weights")))
            model = _auto_class(kind).from_config(settings)
        missing = {*_head_parameters(kind, model)}
    else:
        folder = local_folder(config, "weights", note)
        with readable_errors(config.source, folder), quiet_transformers():
            model, info = _auto_class(kind).from_pretrained(
                folder,
                **_width(kind, task),
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                trust_remote_code=False,
                use_safetensors=True,  # a pickle is never opened
            )
        missing = set(info["missing_keys"]) | {key for key, *_ in info["mismatched_keys"]}
    _ready(model, kind).eval().requires_grad_(False)
    inside, whole = f"{model.base_model_prefix}.", kind.reads == "vocabulary"
    lost = sorted(name for name in missing if whole or name.startswith(inside))
    lost = [name for name in lost if ".pooler." not in name]
    if lost:
        raise ConfigError(
            f"model.source={config.source!r}: the checkpoint lacks {len(lost)} backbone tensors "
            f"({lost[0]} …); is it a checkpoint of this architecture?"
        )
    drawn = _draw_missing(model, missing, head)
    names = _head_parameters(kind, model)
    frozen = {n: t for n, t in model.state_dict().items() if n not in names}
    rest = _rest(model, names - {*drawn})
    return Backbone(model, fingerprint_tensors(frozen), drawn, kind, rest)


def _rest(model: PreTrainedModel, loaded: Collection[str]) -> str:
    """Hash of the configuration and of the head's tensors that the checkpoint brought."""
    settings = model.config.to_dict()
    for name in ("_name_or_path", "_commit_hash", "transformers_version"):  # where, not what
        settings.pop(name, None)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name in loaded}
    text = json.dumps(settings, sort_keys=True, default=str) + fingerprint_tensors(tensors)
    return f"blake2b:{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"


def _head_parameters(kind: Task, model: nn.Module) -> set[str]:
    """Names in the model of all parameters of its head."""
    layers = kind.head(model).items()
    return {f"{name}.{leaf}" for name, layer in layers for leaf, _ in layer.named_parameters()}


def _draw_missing(model: nn.Module, missing: set[str], head: HeadConfig) -> tuple[str, ...]:
    """Weights ~ N(0, head.scale^2), keyed by (head seed, name); biases zero; norms left alone."""
    drawn = []
    for name, parameter in model.named_parameters():
        if name not in missing:
            continue
        drawn.append(name)
        if parameter.dim() == 2:
            key = keys.derive(head.seed, "head", name)
            parameter.copy_(keys.normal(key, tuple(parameter.shape)) * head.scale)
        elif name.endswith("bias"):
            parameter.zero_()
    return tuple(drawn)
