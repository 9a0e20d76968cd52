"""Runs side by side: which belong to one line of a picture, and what tells the lines apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.signature import relevant
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.report.selection import spelled, values_of

FIRST = ("method.name", "task.name", "model.name", "privacy.unit", "privacy.epsilon_target")
"""Keys asked first whether they tell runs apart: others often follow from them."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in the key averaged over and in nothing else that was asked for."""

    label: str  # the values that tell it from the others
    runs: tuple[RunRecords, ...]
    notes: tuple[str, ...] = ()  # what a reader of the mean should know


def group_runs(
    runs: Sequence[RunRecords], by: Sequence[str] = (), over: str = "seed", untold: str = "-"
) -> list[Group]:
    """Split runs into groups.

    Args:
        runs: at least one.
        by: keys whose values make the groups, as selectors spell them; none: the fewest keys that
            tell apart all runs that differ in more than ``over``.
        over: key averaged over; keys that end in it (``partition.seed``) follow it.
        untold: keys that begin so make groups and are left out of the labels.

    Returns:
        Groups in the order of their first run.

    Raises:
        ConfigError: for a key that does not exist, or no runs.
    """
    if not runs:
        raise ConfigError("no run to draw; name a run's folder or the folder of your runs")
    values_of(runs[0], over)  # an unknown key is refused before anything is read
    keys = list(by) or telling_keys(runs, over)
    cells: dict[tuple[str, ...], list[RunRecords]] = {}
    for run in runs:
        cells.setdefault(tuple(_spelled(run, key) for key in keys), []).append(run)
    told = [not key.startswith(untold) for key in keys]
    return [
        _group(_label(compress(keys, told), compress(cell, told)), members, over)
        for cell, members in cells.items()
    ]


def differences(runs: Sequence[RunRecords], over: str = "seed") -> dict[str, list[str]]:
    """Keys that can change results and differ between runs, with one value a run.

    Args:
        runs: to compare.
        over: key left out, with all keys that end in it.
    """
    flat = [dict(_flat(relevant(run.config), "")) for run in runs]
    keys = {key: None for one in flat for key in one}  # in the order of the configuration
    table = {key: [one.get(key, "-") for one in flat] for key in keys if not _follows(key, over)}
    return {key: values for key, values in table.items() if len(set(values)) > 1}


def telling_keys(runs: Sequence[RunRecords], over: str) -> list[str]:
    """The fewest keys, asked in a fixed order, that separate all runs that differ at all."""
    table = differences(runs, over)
    cells: list[tuple[str, ...]] = [()] * len(runs)
    chosen = []
    for key in sorted(table, key=lambda key: FIRST.index(key) if key in FIRST else len(FIRST)):
        finer = [(*cell, value) for cell, value in zip(cells, table[key], strict=True)]
        if len(set(finer)) > len(set(cells)):
            cells = finer
            chosen.append(key)
    return chosen


def _group(label: str, runs: Sequence[RunRecords], over: str) -> Group:
    """The group with each run once, and notes about what its mean hides."""
    notes = []
    others = differences(runs, over)
    if others:
        shown = ", ".join(list(others)[:3])
        notes.append(f"{label or 'these runs'}: averaged although {shown} differ as well")
        return Group(label, tuple(runs), tuple(notes))
    kept: dict[str, RunRecords] = {}
    for run in runs:
        value = _spelled(run, over)
        there = kept.get(value)
        if there is not None:
            notes.append(f"{label or 'these runs'}: {over} {value} was run twice and counts once")
        if there is None or len(run.rounds) > len(there.rounds):
            kept[value] = run
    return Group(label, tuple(kept.values()), tuple(notes))


def _label(keys: Iterable[str], values: Iterable[str]) -> str:
    """Names stand for themselves, numbers with their key: ``lora, local_lr 2.5``."""
    parts = []
    for key, value in zip(keys, values, strict=True):
        last = key.rsplit(".", 1)[-1]
        if key.startswith("privacy") and value == "none":
            parts.append("not private")
        elif last in ("unit", "privacy"):
            parts.append(f"private per {value}")
        elif last == "name" or "." not in key:
            parts.append(value)
        elif last == "epsilon_target":
            if value not in ("-", "null"):
                parts.append(f"epsilon {value} a client")
        else:
            parts.append(f"{last.replace('_', ' ')} {value}")
    return ", ".join(parts)


def _spelled(run: RunRecords, key: str) -> str:
    return "/".join(spelled(value) for value in values_of(run, key)) or "-"


def _flat(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in section.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", spelled(value)


def _follows(key: str, over: str) -> bool:
    return key == over or key.rsplit(".", 1)[-1] == over
