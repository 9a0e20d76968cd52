"""Finds the line of the file that gives a key its value, and the comment there.

Read from the YAML files in the order in which Hydra merges them: the chosen options of the groups,
``config.yaml`` itself, then experiment and debug; the last file that has the key wins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

import yaml

from ffalora_cli.compose import catalogue
from ffalora_cli.compose.yaml_files import GLOBAL
from ffalora_cli.config.documentation import key_type

TOP = "config.yaml"


@dataclass(frozen=True)
class Origin:
    """A line that sets a key."""

    file: str  # as it is named to a person
    line: int
    doc: str  # the comment behind the key, or above it; empty without one
    written: str  # the value as it is written, references unresolved; empty for sections and lists


@cache
def origins(path: Traversable, file: str, prefix: str) -> dict[str, Origin]:
    """Every key that one file sets, sections included, by its full dotted name.

    Args:
        path: of the file.
        file: how it is named to a person.
        prefix: of its keys, as in ``federation.``; empty for files that set keys anywhere.
    """
    text = catalogue.read(path).decode("utf-8")
    root, lines = yaml.compose(text, Loader=yaml.SafeLoader), text.splitlines()
    found: dict[str, Origin] = {}
    for key, line, written in _keys(root, prefix):
        if key != f"{prefix}defaults":
            found[key] = Origin(file, line + 1, _doc(lines, line), written)
    return found


def chain(choices: Mapping[str, str | None]) -> list[dict[str, Origin]]:
    """What every file of a composition sets, in the order of merging.

    Args:
        choices: group to chosen option, as Hydra resolved them.
    """
    groups = [name for name in choices if name not in GLOBAL]
    found = [part for name in groups for part in _option(name, choices[name], f"{name}.")]
    found.append(origins(resources.files(catalogue.PACKAGE) / TOP, f"configs/{TOP}", ""))
    for name in GLOBAL:
        found += _option(name, choices.get(name), "")
    return found


def who_set(key: str, choices: Mapping[str, str | None]) -> Origin | None:
    """The last line that sets a key, or a section around it; None where only the schema does."""
    setting: Origin | None = None
    for found in chain(choices):
        setting = found.get(key, setting)
    if setting is None and "." in key:
        return who_set(key.rpartition(".")[0], choices)
    return setting


def documentation(key: str, choices: Mapping[str, str | None]) -> str:
    """The comment at the line that sets a key, else the schema's, else one of another option."""
    own = [found[key].doc for found in reversed(chain(choices)) if key in found]
    group, others = key.split(".")[0], [key_type(key).comment]
    if group in catalogue.groups():
        for option in catalogue.options(group):
            with suppress(OSError, ValueError, yaml.YAMLError):  # a broken one says nothing here
                others += [p[key].doc for p in _option(group, option, f"{group}.") if key in p]
    return next((doc for doc in (*own, *others) if doc), "")


def _option(group: str, option: str | None, prefix: str) -> Iterator[dict[str, Origin]]:
    """The file of an option, after those that its own defaults list names."""
    if option is None:
        return
    path = catalogue.file(group, option)
    for entry in _before(path):
        yield from _option(group, entry, prefix)
    yield origins(path, catalogue.label(group, path), prefix)


@cache
def _before(path: Traversable) -> tuple[str, ...]:
    """Options of the same group that a file's own defaults list merges first."""
    defaults = (yaml.safe_load(catalogue.read(path)) or {}).get("defaults", ())
    return tuple(entry for entry in defaults if isinstance(entry, str) and entry != "_self_")


def _keys(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, int, str]]:
    """(dotted key, line from 0, value as written) of every key below a node."""
    if not isinstance(node, yaml.MappingNode):
        return
    for name, value in node.value:
        key = f"{prefix}{name.value}"
        yield key, name.start_mark.line, str(value.value) * isinstance(value, yaml.ScalarNode)
        yield from _keys(value, f"{key}.")


def _doc(lines: list[str], line: int) -> str:
    """The comment behind a line and those that go on below it, else the block above it."""
    _, mark, behind = lines[line].partition(" #")
    if mark:
        parts = [behind.strip()]
        for text in lines[line + 1 :]:
            if not text.startswith("  ") or not text.strip().startswith("#"):
                break
            parts.append(text.strip().lstrip("# "))
        return " ".join(parts)
    above: list[str] = []
    for text in reversed(lines[:line]):
        if not text.strip().startswith("#") or "@package" in text:
            break
        above.insert(0, text.strip().lstrip("# "))
    return " ".join(above)
