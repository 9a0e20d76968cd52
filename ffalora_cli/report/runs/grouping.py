"""Groups runs into the lines of a picture, and names the lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.report.runs.comparability import other_inputs
from ffalora_cli.report.runs.selection import values_of
from ffalora_cli.report.runs.settings import (
    column_of,
    differing,
    further_columns,
    setting,
    title,
)


@dataclass(frozen=True)
class Group:
    """Runs that agree in the keys that make groups."""

    label: str  # the values that tell it from the others; empty for a single group
    runs: tuple[RunRecords, ...]


@dataclass(frozen=True)
class Grouping:
    """All groups, and what a reader of their means should know."""

    groups: tuple[Group, ...]
    notes: tuple[str, ...]

    @property
    def runs(self) -> tuple[RunRecords, ...]:
        """Every run that counts."""
        return tuple(run for group in self.groups for run in group.runs)


def group_runs(
    runs: Sequence[RunRecords], by: Sequence[str] = (), over: str = "seed", unlabelled: str = "-"
) -> Grouping:
    """Split runs into groups, finished or not.

    Args:
        runs: to draw.
        by: keys that make groups, as ``compare --by`` takes them; none: those that differ.
        over: key averaged over.
        unlabelled: key prefix; such keys split groups but do not appear in labels.

    Returns:
        Groups in the order of their first run. One run that is there twice counts once.

    Raises:
        ConfigError: for a key that does not exist, or no runs.
    """
    if not runs:
        raise ConfigError("no run to draw; name a run's folder or the folder of your runs")
    kept, repeated = once(sorted(runs, key=lambda run: (not run.finished, -len(run.rounds))))
    kept.sort(key=runs.index)
    found, _ = differing(kept, over)
    keys = tuple(column_of(_unit(key)) for key in by) or tuple(found)
    for key in (*keys, over):
        values_of(kept[0], key)
    more, seeds, _ = further_columns(kept, keys, found)
    keys += tuple(more)
    cells: dict[tuple[str, ...], list[RunRecords]] = {}
    for run in kept:
        cells.setdefault(tuple(setting(run, key) for key in keys), []).append(run)
    told = _telling(keys, list(cells), unlabelled)
    groups = [
        Group(", ".join(_words(keys[i], cell[i], own[0]) for i in told), (*own,))
        for cell, own in cells.items()
    ]
    notes = [f"split by {', '.join(more)}, too: runs differ in it"] if more and by else []
    notes += [f"averaged although they differ: {', '.join(seeds)}"] if seeds else []
    if repeated:
        notes.append(f"the same run again, counted once: {repeated[0].path.name}")
    return Grouping(tuple(groups), tuple(notes))


def _unit(key: str) -> str:
    """``privacy`` as the key that also a run without a statement yet has."""
    return "privacy.unit" if key == "privacy" else key


def _telling(keys: Sequence[str], cells: Sequence[tuple[str, ...]], unlabelled: str) -> list[int]:
    """Positions of the fewest keys, taken in order, that tell all groups apart."""
    seen: list[tuple[str, ...]] = [()] * len(cells)
    told = []
    for i, key in enumerate(keys):
        finer = [(*before, cell[i]) for before, cell in zip(seen, cells, strict=True)]
        if len(set(finer)) > len(set(seen)) and not key.startswith(unlabelled):
            seen = finer
            told.append(i)
    return told


def _words(key: str, value: str, run: RunRecords) -> str:
    """Names stand for themselves, other values with their key: ``lora, rank 8``."""
    if key.startswith("privacy.") and run.config["privacy"]["unit"] == "none":
        return "not private"
    if key == "privacy.unit":
        return f"private per {value}"
    if key == "privacy.epsilon_target":
        return f"epsilon {value} a client"
    return value if "." not in key else f"{title(key).replace('_', ' ')} {value}"


def once(runs: Sequence[RunRecords]) -> tuple[list[RunRecords], list[RunRecords]]:
    """Runs without repetitions.

    The same signature with reproducible noise, on the same recorded inputs, is the same run.
    """
    kept: dict[object, list[RunRecords]] = {}
    repeated = []
    for run in runs:
        secure = (run.config.get("privacy") or {}).get("noise") == "secure"
        key = str(run.path) if secure and run.privacy else run.manifest.get("signature")
        same = kept.setdefault(key, [])
        if all(other_inputs([run, other]) for other in same):
            same.append(run)
        else:
            repeated.append(run)
    return [run for same in kept.values() for run in same], repeated
