"""Takes settings of the tracker W&B from W&B's own environment variables.

What was typed counts first, then the environment, then YAML. None of it is part of a run's
identity. ``WANDB_DIR``, which no key of the configuration stands for, is read where W&B is opened.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ffalora_cli.compose.run_name import safe
from ffalora_cli.config.errors import brief, choose
from ffalora_cli.config.schema import Config

DIRECTORY = "WANDB_DIR"
_KEYS = {
    "WANDB_PROJECT": "project",
    "WANDB_ENTITY": "entity",
    "WANDB_RUN_GROUP": "group",
    "WANDB_TAGS": "tags",
    "WANDB_MODE": "mode",
}
_MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline"}
_TRUE = ("1", "on", "true", "yes")


def with_environment(
    config: Config, typed: Collection[str], environ: Mapping[str, str]
) -> tuple[Config, tuple[str, ...]]:
    """The configuration with what W&B's variables say, and one line about it.

    Args:
        config: of a run.
        typed: keys of the command line, of this one and of the one that began the run.
        environ: environment variables.

    Returns:
        The configuration, as it was without W&B, and notes for the user; W&B turned off by its
        variables is no tracker.

    Raises:
        ConfigError: for a ``WANDB_MODE`` that W&B does not have.
    """
    if config.tracking.name != "wandb":
        return config, ()
    if "tracking.mode" not in typed and (off := _off(environ)):
        none = replace(config.tracking, name="none")
        return replace(config, tracking=none), (f"tracking=none: {off} in the environment",)
    found = {
        variable: value
        for variable, key in {**_KEYS, "WANDB_NAME": "name"}.items()
        if (value := environ.get(variable))
        and (key if variable == "WANDB_NAME" else f"tracking.{key}") not in typed
    }
    values: dict[str, Any] = {key: found[v] for v, key in _KEYS.items() if v in found}
    if "mode" in values:
        if values["mode"] not in _MODES:
            raise choose("WANDB_MODE", values["mode"], (*_MODES, "disabled"))
        values["mode"] = _MODES[values["mode"]]
    if "tags" in values:
        values["tags"] = tuple(tag.strip() for tag in values["tags"].split(",") if tag.strip())
    name = safe(found["WANDB_NAME"]) if "WANDB_NAME" in found else config.name
    said = [
        f"{variable}={brief(value)[1:-1]}"
        for variable, value in (*found.items(), (DIRECTORY, environ.get(DIRECTORY)))
        if value
    ]
    notes = (f"W&B: {', '.join(said)} from the environment",) if said else ()
    return replace(config, name=name, tracking=replace(config.tracking, **values)), notes


def _off(environ: Mapping[str, str]) -> str | None:
    """The variable that turns W&B off, and its value."""
    if environ.get("WANDB_MODE") == "disabled":
        return "WANDB_MODE=disabled"
    disabled = environ.get("WANDB_DISABLED", "")
    return f"WANDB_DISABLED={disabled}" if disabled.lower() in _TRUE else None
