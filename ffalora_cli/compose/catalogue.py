"""Lists config groups and their options, read from the YAML files as they lie.

No Hydra here, so that ``ffalora ls`` answers at once.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

PACKAGE = "ffalora_cli.configs"


@cache
def groups() -> tuple[str, ...]:
    """Names of the config groups, sorted."""
    root = resources.files(PACKAGE)
    folders = [entry.name for entry in root.iterdir() if entry.is_dir()]
    return tuple(sorted(name for name in folders if options(name)))


@cache
def options(group: str) -> tuple[str, ...]:
    """Names of the options of one group, sorted."""
    files = resources.files(PACKAGE).joinpath(group).iterdir()
    return tuple(sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml")))


def describe(group: str, option: str) -> str:
    """The first comment line of an option's file: its description."""
    file = resources.files(PACKAGE).joinpath(group, f"{option}.yaml")
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    for line in text.splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return line.lstrip("# ").rstrip()
    return ""
