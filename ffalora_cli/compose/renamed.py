"""Clears hub path, package and licence of a task that is renamed by keys: it is other data."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from omegaconf import DictConfig, OmegaConf

from ffalora_cli.compose.origins import chain

_NAME = "task.name"
ORIGIN = {"task.package": None, "task.hub_path": None, "task.hub_name": None, "task.license": ""}


def forget_origin(
    config: DictConfig, choices: Mapping[str, str | None], typed: Collection[str]
) -> None:
    """Unset, in place, the origin of a task whose name a later file or the command line changed.

    Args:
        config: composed, with the typed keys.
        choices: group to chosen option.
        typed: keys of the command line.
    """
    if OmegaConf.select(config, _NAME) != choices.get("task"):  # an option has its file's name
        forget_below(config, [*chain(choices), typed])


def forget_below(config: DictConfig, layers: Sequence[Collection[str]]) -> None:
    """The same, from the keys that are set by what is merged, in the order of merging."""
    naming = [number for number, layer in enumerate(layers) if _NAME in layer]
    if len(naming) < 2:
        return
    for key, nothing in ORIGIN.items():
        if not any(key in layer for layer in layers[naming[-1] :]):
            OmegaConf.update(config, key, nothing)
