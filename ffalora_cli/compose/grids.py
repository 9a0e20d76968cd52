"""Reads a grid inside an experiment's YAML: ``hydra: sweeper: params:``, as Hydra has it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from ffalora_cli.compose import catalogue
from ffalora_cli.compose.yaml_files import check_option
from ffalora_cli.config.errors import ConfigError


def axes(experiment: str) -> dict[str, str]:
    """Keys and values of the grid in an experiment's file; empty where it has none.

    Raises:
        ConfigError: when the section is there and is not ``key: "values"``.
    """
    import yaml

    if experiment not in catalogue.options("experiment"):
        return {}
    check_option("experiment", experiment)
    text = catalogue.read(catalogue.file("experiment", experiment)).decode("utf-8")
    content = yaml.safe_load(text)
    if not isinstance(content, Mapping) or "hydra" not in content:
        return {}
    try:
        params = dict(content["hydra"]["sweeper"]["params"])
    except (KeyError, TypeError, ValueError):
        raise ConfigError(
            f"experiment/{experiment}.yaml: hydra may hold sweeper.params: {{key: 'a,b'}} alone"
        ) from None
    return {str(key): str(values) for key, values in params.items()}


def with_axes(overrides: Sequence[str], sweep: bool) -> list[str]:
    """Overrides with the grid of the experiment they choose put before them, where they win.

    Args:
        overrides: as typed.
        sweep: whether several values are allowed.

    Raises:
        ConfigError: an experiment that is a sweep without ``-m``, or several with grids.
    """
    typed = dict(text.lstrip("+").partition("=")[::2] for text in overrides)
    names = typed.get("experiment", "").split(",")
    grid = {key: values for name in names for key, values in axes(name.strip()).items()}
    if not grid:
        return list(overrides)
    if len(names) > 1:
        raise ConfigError(
            f"experiment={typed['experiment']}: experiments with grids of their own are swept "
            "one at a time"
        )
    left = {key: values for key, values in grid.items() if key not in typed}
    if left and not sweep:
        raise ConfigError(
            f"experiment={names[0]} is a sweep over {', '.join(left)}; "
            f"run it with: ffalora sweep {shlex.join(overrides)}"
        )
    return [*(f"{key}={values}" for key, values in left.items()), *overrides]
