"""Prints what the words of a command line compose, as Hydra's ``--cfg`` and ``--info`` do."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ffalora_cli.cli.exits import DONE
from ffalora_cli.compose import catalogue
from ffalora_cli.config.build import known_keys
from ffalora_cli.config.errors import ConfigError, choose

SHOWN = ("job", "hydra", "all")  # what Hydra's --cfg can show
_INFO = {
    "all": "",
    "defaults": "",
    "defaults-tree": "",
    "config": "it is printed by --cfg job",
    "plugins": "versions and what is installed: ffalora doctor",
    "searchpath": "",
}
"""What Hydra's ``--info`` can show, and where it is to be had if not there."""
_WHOLE = "_global_"


def show(options: argparse.Namespace) -> int:
    """Print a part of the composition; nothing is run.

    Raises:
        ConfigError: overrides that do not compose, what Hydra alone has, an unknown section.
    """
    if options.multirun:
        raise ConfigError("--cfg and --info show one run; leave -m out")
    overrides = list(options.overrides)
    if options.info and "=" in options.info:  # --info seed=3: Hydra's reader takes the next word
        overrides.insert(0, options.info)
        options.info = "all"
    if options.info:
        _print_choices(options.info, overrides)
        return DONE
    if options.cfg is None:
        raise ConfigError("--resolve and --package are about --cfg job; add it")
    if options.cfg != "job":
        raise ConfigError(f"--cfg {options.cfg}: Hydra's own settings are not used; --cfg job")
    _print_config(overrides, options.resolve, options.package or _WHOLE)
    return DONE


def _print_choices(what: str, overrides: Sequence[str]) -> None:
    """The defaults list: every group and its option; or the folders that options come from."""
    from ffalora_cli.compose.compose import choices_of
    from ffalora_cli.compose.overrides import expand

    if what not in _INFO:
        raise choose("--info", what, _INFO)
    if _INFO[what]:
        raise ConfigError(f"--info {what}: {_INFO[what]}")
    (job,) = expand(overrides, sweep=False)
    if what == "searchpath":
        print("\n".join([f"package {catalogue.PACKAGE}", *map(str, catalogue.own_folders())]))
        return
    for group, option in choices_of(job).items():
        about = catalogue.describe(group, option) if option else ""
        print(f"{group:<12}{option or 'null':<18}{about}".rstrip())
    print("\nthe whole configuration: --cfg job; who sets a key: ffalora explain KEY")


def _print_config(overrides: Sequence[str], resolve: bool, package: str) -> None:
    """A section as YAML: as it is written, or checked and as the run's folder will have it."""
    from ffalora_cli.compose.compose import compose_unresolved
    from ffalora_cli.compose.jobs import plan
    from ffalora_cli.compose.overrides import expand
    from ffalora_cli.compose.yaml_files import dumped

    if resolve:
        content: Any = plan(overrides)[0].resolved
    else:
        (job,) = expand(overrides, sweep=False)
        content = compose_unresolved(job)
    for part in () if package == _WHOLE else package.split("."):
        if not isinstance(content, dict) or part not in content:
            raise choose("--package", package, known_keys())
        content = content[part]
    if package != _WHOLE:
        print(f"# @package {package}")
    print(dumped(content, width=100), end="")
