"""A trained model in the files that ``peft`` and ``transformers`` read.

Written from their file formats; neither library's writer is used for the adapter, so that an export
does not depend on how it names things internally. ``reload`` compares the result with ours.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.schema import Config
from ffalora_cli.records.files import to_json, write_new
from ffalora_cli.records.tensors import to_safetensors

if TYPE_CHECKING:
    from torch import nn

    from ffalora_cli.models.network import Network
    from ffalora_cli.types import Tensors

PREFIX = "base_model.model."  # of every name in an adapter file
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MODEL_WEIGHTS = "model.safetensors"


def public_source(source: str) -> str:
    """The base model's name without a path of this machine: a folder becomes its last part."""
    if source.startswith((".", "/", "~")):
        return Path(source).expanduser().resolve().name
    return source


def whole_modules(network: Network, drawn: Sequence[str]) -> list[str]:
    """Modules an adapter has to hold entirely: the head, and what the base checkpoint lacks.

    Args:
        network: whose head it is.
        drawn: parameters that were drawn from the head seed (``Backbone.drawn``).

    Returns:
        Module paths: children of the model, or layers within its base (BERT's pooler).
    """
    prefix = network.plain.base_model_prefix + "."
    names = {name.partition(".")[0] for name in network.task.head(network.plain)}
    for parameter in drawn:
        within = parameter.startswith(prefix)
        names.add(parameter.rpartition(".")[0] if within else parameter.partition(".")[0])
    return sorted(names)


def write_adapter(
    folder: Path, network: Network, values: Tensors, drawn: Sequence[str], config: Config
) -> None:
    """``adapter_config.json`` and ``adapter_model.safetensors`` of a LoRA adapter.

    The product is ``lora_alpha / r * B @ A`` there as here, so both numbers are kept as they are.

    Args:
        folder: there, without these files.
        network: of the run; nothing merged into its base.
        values: factors ``[rank, d_in]``, ``[d_out, rank]`` and head, by name.
        drawn: parameters of the base that came from the head seed.
        config: of the run.
    """
    modules = whole_modules(network, drawn)
    tensors: Tensors = {}
    for site in network.sites:
        tensors[f"{PREFIX}{site.name}.lora_A.weight"] = values[f"{site.name}.lora_a"]
        tensors[f"{PREFIX}{site.name}.lora_B.weight"] = values[f"{site.name}.lora_b"]
    for name in modules:
        for leaf, value in network.plain.get_submodule(name).state_dict().items():
            full = f"{name}.{leaf}"
            tensors[PREFIX + full] = values.get(f"head.{full}", value)
    alpha = config.adapter.alpha
    settings: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": public_source(config.model.source),
        "revision": config.model.revision,
        "r": config.adapter.rank,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": config.adapter.dropout,
        "target_modules": [site.name for site in network.sites],
        "modules_to_save": modules,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    write_new(folder / ADAPTER_CONFIG, to_json(settings, indent=2))
    write_new(folder / ADAPTER_WEIGHTS, to_safetensors(tensors, {"format": "pt"}))


def merged_model(network: Network, values: Tensors, base_delta: Tensors) -> nn.Module:
    """A plain classifier with ``W + delta + scale * B @ A`` at every site, and the trained head.

    Args:
        network: of the run; stays as it is.
        values: factors and head by name.
        base_delta: change of the frozen weights by site, ``[d_out, d_in]``.
    """
    model = copy.deepcopy(network.plain)
    for site in network.sites:
        a, b = values[f"{site.name}.lora_a"], values[f"{site.name}.lora_b"]
        change = network.scale * (b.double() @ a.double())
        if site.name in base_delta:
            change = change + base_delta[site.name].double()
        weight = model.get_submodule(site.name).weight
        weight.data.copy_(weight.double() + change)
    for name in network.head_names:
        model.get_parameter(name.removeprefix("head.")).data.copy_(values[name])
    return model


def write_merged(folder: Path, model: Any, settings: Mapping[str, Any]) -> None:
    """``config.json`` with the task's settings, and ``model.safetensors``."""
    for name, value in settings.items():
        setattr(model.config, name, value)
    model.config.architectures = [type(model).__name__]
    model.config._name_or_path = ""  # where it was loaded from is a path of this machine
    model.config.save_pretrained(folder)
    write_new(folder / MODEL_WEIGHTS, to_safetensors(model.state_dict(), {"format": "pt"}))
