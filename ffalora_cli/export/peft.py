"""Writes a trained model in the files that ``peft`` and ``transformers`` read.

The form says what its adapter is to peft, which writes its configuration; tensors and merged models
are written here. ``reload`` compares the result with ours.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffalora_cli.adapters.sites import stores_transposed, weight_of
from ffalora_cli.config.schema import Config, TaskConfig
from ffalora_cli.records.files import to_json, to_safetensors, write_new
from ffalora_cli.tasks import registry

if TYPE_CHECKING:
    from torch import nn

    from ffalora_cli.models.network import Network
    from ffalora_cli.types import Tensors

PREFIX = "base_model.model."  # of every name in an adapter file
ADAPTER_WEIGHTS = "adapter_model.safetensors"
LABELS = "labels.json"
TASK_TYPES = {
    "AutoModelForSequenceClassification": "SEQ_CLS",
    "AutoModelForTokenClassification": "TOKEN_CLS",
    "AutoModelForCausalLM": "CAUSAL_LM",
}
"""What peft calls the tasks that it has a class of its own for; it has none for images."""


def public_source(source: str) -> str:
    """The base model's name without a path of this machine: a folder becomes its last part."""
    if source.startswith((".", "/", "~")):
        return Path(source).expanduser().resolve().name
    return source


def whole_modules(network: Network, drawn: Sequence[str]) -> list[str]:
    """Modules an adapter has to hold entirely: the head, and what the base checkpoint lacks.

    Args:
        network: of the run.
        drawn: parameters that were drawn from the head seed (``Backbone.drawn``).

    Returns:
        Module paths: children of the model, or layers within its base (BERT's pooler).
    """
    prefix = f"{network.plain.base_model_prefix}."
    names = {name.split(".")[1] for name in network.head_names}
    for parameter in drawn:
        within = parameter.startswith(prefix)
        names.add(parameter.rpartition(".")[0] if within else parameter.partition(".")[0])
    return sorted(names)


def write_adapter(
    folder: Path, network: Network, values: Tensors, drawn: Sequence[str], config: Config
) -> None:
    """``adapter_config.json``, ``adapter_model.safetensors``, and how a language model generates.

    Which class an output is stands in ``labels.json``, as transformers' ``config.json`` has it: an
    adapter has no ``config.json``, and peft's own file has no place for it.

    Args:
        folder: there, without these files.
        network: of the run; nothing merged into its base.
        values: factors and head by name.
        drawn: parameters of the base that came from the head seed.
        config: of the run, whose form peft knows.
    """
    form, plain = network.form, network.plain
    modules = whole_modules(network, drawn)
    targets = [site.name for site in network.sites]
    settings = {
        "task_type": TASK_TYPES.get(network.task.auto_class),
        "base_model_name_or_path": public_source(config.model.source),
        "revision": config.model.revision,
        "target_modules": targets,
        "modules_to_save": modules or None,
        "fan_in_fan_out": any(stores_transposed(plain.get_submodule(name)) for name in targets),
        "inference_mode": True,
    }
    written = form.peft_config(config.adapter, settings)
    written.target_modules = targets  # a set's order would change from process to process
    written.save_pretrained(str(folder))
    tensors: Tensors = {}
    for site in network.sites:
        for factor, name in form.peft_names.items():
            tensors[f"{PREFIX}{site.name}.{name}"] = values[f"{site.name}.{factor}"]
    for name in modules:
        for leaf, value in plain.get_submodule(name).state_dict().items():
            full = f"{name}.{leaf}"
            tensors[PREFIX + full] = values.get(f"head.{full}", value)
    write_new(folder / ADAPTER_WEIGHTS, to_safetensors(tensors, {"format": "pt"}))
    if labels := named_classes(config.task):
        write_new(folder / LABELS, to_json(labels, indent=2))
    if plain.can_generate():
        plain.generation_config.save_pretrained(folder)


def named_classes(task: TaskConfig) -> dict[str, Any]:
    """``id2label`` and ``label2id``; empty where outputs are no classes."""
    settings = registry.get(task.kind).settings(task)
    return {key: settings[key] for key in ("id2label", "label2id") if key in settings}


def merged_model(network: Network, values: Tensors, base_delta: Tensors) -> nn.Module:
    """A plain model with ``W + delta + scale * dW`` at every site, and the trained head.

    Args:
        network: of the run; stays as it is.
        values: factors and head by name.
        base_delta: change of the frozen weights by site, ``[d_out, d_in]``.
    """
    model = copy.deepcopy(network.plain)
    for site in network.sites:
        factors = network.form.of_site(values, site)
        change = network.form.dense({n: f.double() for n, f in factors.items()}, network.scale)
        if site.name in base_delta:
            change = change + base_delta[site.name].double()
        weight = weight_of(model.get_submodule(site.name))  # [d_out, d_in]
        weight.copy_(weight.double() + change)
    for name in network.head_names:
        model.get_parameter(name.removeprefix("head.")).data.copy_(values[name])
    return model


def write_merged(folder: Path, model: Any, settings: Mapping[str, Any]) -> None:
    """``config.json`` with the task's settings, and the weights; tied ones are written once."""
    for name, value in settings.items():
        setattr(model.config, name, value)
    model.config._name_or_path = ""  # where it was loaded from is a path of this machine
    model.save_pretrained(folder)
