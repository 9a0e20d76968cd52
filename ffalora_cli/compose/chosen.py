"""Writes overrides as an experiment of their own: ``configs/experiment/NAME.yaml``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ffalora_cli.compose.overrides import expand

_OUTSIDE = ("experiment", "debug")  # the first is said before; the second cuts any experiment


def as_experiment(overrides: Sequence[str], description: str) -> str:
    """The text of an experiment that sets what these overrides set, groups and keys.

    Args:
        overrides: of one run; an experiment among them stands first in the defaults list.
        description: one line, as ``ffalora ls experiments`` shows it.
    """
    import yaml

    (settings,) = expand(overrides, sweep=False)
    chosen = [one for one in settings if one.chooses and one.key not in _OUTSIDE]
    lines = ["# @package _global_", f"# {description}", ""]
    defaults = [f"  - {one.value}" for one in settings if one.key == "experiment"]
    defaults += [f"  - override /{one.key}: {one.value}" for one in chosen]
    if defaults:
        lines += ["defaults:", *defaults, ""]
    keys: dict[str, Any] = {}
    for one in settings:
        if not one.chooses:
            *sections, name = one.key.split(".")
            place = keys
            for section in sections:
                place = place.setdefault(section, {})
            place[name] = one.value
    if keys:
        lines.append(yaml.safe_dump(keys, sort_keys=False, allow_unicode=True).rstrip())
    return "\n".join(lines) + "\n"
