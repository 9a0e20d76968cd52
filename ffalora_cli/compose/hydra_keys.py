"""Reads ``hydra/launcher``, ``hydra/sweeper`` and their settings: of the sweep, never of a run.

They are taken from the command line before anything is composed, so no signature knows of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ffalora_cli.config.errors import ConfigError, brief, choose, nearest

_SWEEPERS = ("basic", "optuna")
_INSTEAD = {
    "hydra.run.dir": "records go below paths.runs=DIR",
    "hydra.sweep.dir": "records go below paths.runs=DIR",
    "hydra.sweep.subdir": "a folder begins with name=NAME",
    "hydra.job.name": "a folder begins with name=NAME",
    "hydra.searchpath": "write paths.configs=DIR, or --config-dir DIR",
    "hydra.mode": "a sweep is ffalora sweep, or ffalora run -m",
    "hydra.verbose": "FFALORA_TRACEBACK=1 shows tracebacks",
}
"""What to type instead of a setting of Hydra's."""


@dataclass
class SweepSettings:
    """What was typed about the sweep."""

    launcher: str = "basic"
    launcher_settings: dict[str, str] = field(default_factory=dict)
    sweeper: str = "basic"
    sweeper_settings: dict[str, str] = field(default_factory=dict)


def take(overrides: Sequence[str], sweep: bool) -> tuple[list[str], SweepSettings]:
    """Split what is about the sweep from what is about its runs.

    Args:
        overrides: as typed.
        sweep: whether it is one; otherwise these keys mean nothing.

    Raises:
        ConfigError: another key of Hydra's, an unknown sweeper or settings it does not have, or no
            sweep.
    """
    rest, found = [], SweepSettings()
    for text in overrides:
        key, equals, value = text.lstrip("+").partition("=")
        if not key.startswith(("hydra/", "hydra.")) or not equals:
            rest.append(text)
            continue
        _take_one(key, value, found)
        if not sweep:
            raise ConfigError(f"{key} is about a sweep; write ffalora sweep ..., or add -m")
    if found.sweeper not in _SWEEPERS:
        raise choose("hydra/sweeper", found.sweeper, _SWEEPERS)
    if found.sweeper == "basic" and found.sweeper_settings:
        key = next(iter(found.sweeper_settings))
        raise ConfigError(f"hydra.sweeper.{key} is a setting of optuna; add hydra/sweeper=optuna")
    return rest, found


def _take_one(key: str, value: str, found: SweepSettings) -> None:
    if key in ("hydra/launcher", "hydra/sweeper"):
        setattr(found, key.removeprefix("hydra/"), value)
        return
    section, _, name = key.removeprefix("hydra.").partition(".")
    settings: dict[str, Any] = {
        "launcher": found.launcher_settings,
        "sweeper": found.sweeper_settings,
    }
    if section in settings and name:
        settings[section][name] = value
        return
    if key not in _INSTEAD and section not in ("run", "sweep", "job"):
        known = ("hydra/launcher", "hydra/sweeper", "hydra.launcher", "hydra.sweeper")
        hint = nearest(key, known)
        if hint:
            raise ConfigError(f"{brief(key, 60)[1:-1]} is not a key; did you mean {hint!r}?")
    raise not_used(key)


def not_used(key: str) -> ConfigError:
    """The error for a setting of Hydra's that means nothing here, with what does."""
    instead = _INSTEAD.get(key, "records go to paths.runs")
    return ConfigError(f"{brief(key, 60)[1:-1]}: Hydra's own settings are not used; {instead}")
