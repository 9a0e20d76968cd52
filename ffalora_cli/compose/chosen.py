"""Writes overrides as an experiment of their own: ``configs/experiment/NAME.yaml``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ffalora_cli.compose.overrides import expand
from ffalora_cli.compose.yaml_files import TYPED, dumped

_OUTSIDE = ("experiment", "debug")  # the first is said before; the second cuts any experiment


def as_experiment(overrides: Sequence[str], description: str) -> str:
    """The text of an experiment that sets what these overrides set, groups and keys.

    Args:
        overrides: of one run; an experiment among them stands first in the defaults list.
        description: one line, as ``ffalora ls experiments`` shows it.
    """
    (settings,) = expand(overrides, sweep=False)
    chosen = [one for one in settings if one.chooses and one.key not in _OUTSIDE]
    lines = ["# @package _global_", f"# {description}", ""]
    defaults: list[Any] = [one.value for one in settings if one.key == "experiment"]
    defaults += [{f"override /{one.key}": one.value} for one in chosen]
    if defaults:
        lines.append(dumped({"defaults": defaults}))
    keys: dict[str, Any] = {}
    for one in settings:
        if not one.chooses and one.key not in TYPED:
            *sections, name = one.key.split(".")
            place = keys
            for section in sections:
                place = place.setdefault(section, {})
            place[name] = one.value
    if keys:
        lines.append(dumped(keys).rstrip())
    return "\n".join(lines) + "\n"
