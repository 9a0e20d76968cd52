"""Reads a metric against rounds, bytes, epsilon or seconds: one run, and the mean of a group.

Rounds are compared with rounds: a mean stands only where every run of the group was scored. Along
bytes, epsilon and seconds a run has, between two evaluations, the model that was last scored: its
value is held, never interpolated. A finished run keeps its last value (that is the model one has);
the mean of held values ends where the first unfinished run does.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ffalora_cli.config.errors import ConfigError, counted, listed, nearest
from ffalora_cli.metric_keys import DOWNLINK_TOTAL, EPSILON, ROUND_SECONDS, UPLINK_TOTAL
from ffalora_cli.privacy.rounding import epsilon_text
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.report.names import PAPER, Names
from ffalora_cli.report.runs.settings import grouped, once, row_of, split
from ffalora_cli.report.runs.statistics import Sample, summarize

X_AXES = {
    "round": "round",
    "uplink_bytes": "uplink of all clients",
    "total_bytes": "uplink and downlink of all clients",
    "epsilon": "\N{GREEK SMALL LETTER EPSILON}",
    "seconds": "training time (s)",
}
"""What ``--x`` may be, and the words under the axis; bytes get their unit."""


@dataclass(frozen=True)
class Group:
    """Runs that agree in the keys that make groups: a line of a picture."""

    told: Mapping[str, str]  # what tells it from the others: words by key, the same keys in all
    runs: tuple[RunRecords, ...]

    @property
    def label(self) -> str:
        """The words in a line; empty for a single group."""
        return ", ".join(dict.fromkeys(self.told.values()))  # "no privacy" of two keys: once


@dataclass(frozen=True)
class Grouping:
    """All groups, and what a reader of their means should know."""

    groups: tuple[Group, ...]
    notes: tuple[str, ...]

    @property
    def runs(self) -> tuple[RunRecords, ...]:
        """Every run that counts."""
        return tuple(run for group in self.groups for run in group.runs)

    def absent(self, drawn: Collection[str], what: str) -> list[str]:
        """A note that names the groups whose labels are not among those drawn, if any."""
        names = [group.label or "a run" for group in self.groups if group.label not in drawn]
        return [f"not drawn, without {what}: {'; '.join(names)}"] if names else []


def group_runs(
    runs: Sequence[RunRecords],
    by: Sequence[str] = (),
    over: str = "seed",
    unlabelled: str = "-",
    names: Names = PAPER,
) -> Grouping:
    """Split runs into groups, finished or not.

    Args:
        runs: to draw.
        by: keys that make groups, as ``compare --by`` takes them; none: those that differ.
        over: key averaged over.
        unlabelled: key prefix; such keys split groups but do not appear in labels.
        names: the order of values.

    Returns:
        Groups in the order of the rows of a table. One run that is there twice counts once.

    Raises:
        ConfigError: for a key that does not exist, or no runs.
    """
    if not runs:
        raise ConfigError("no run to draw; name a run's folder or the folder of your runs")
    kept, repeated = once(sorted(runs, key=lambda run: (not run.finished, -len(run.rounds))))
    kept.sort(key=runs.index)
    by = ["privacy.unit" if key == "privacy" else key for key in by]  # also without a statement
    found = split(kept, by, over)
    loose = grouped(kept, lambda run: row_of(run, found.columns))
    cells = {cell: loose[cell] for cell in names.ordered(found.columns, loose)}
    told = _telling(found.columns, list(cells), unlabelled)
    groups = [
        Group(
            {found.columns[i]: _words(found.columns[i], cell[i], own[0], names) for i in told},
            (*own,),
        )
        for cell, own in cells.items()
    ]
    notes = []
    if found.further and by:
        notes.append(f"split by {', '.join(found.further)}, too: runs differ in it")
    if found.seeds:
        notes.append(f"averaged although they differ: {', '.join(found.seeds)}")
    if repeated:
        notes.append(f"the same run again, counted once: {repeated[0].path.name}")
    return Grouping(tuple(groups), tuple(notes))


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


def _words(key: str, value: str, run: RunRecords, names: Names) -> str:
    """A value as tables write it beside others: ``FFA-LoRA``, ``rank = 8``."""
    if key.startswith("privacy.") and run.config["privacy"]["unit"] == "none":
        return names.said("privacy", "none")
    return names.said(key, value)


@dataclass(frozen=True)
class Curve:
    """What the runs of a group have in common along an axis."""

    label: str  # of its group
    x: np.ndarray  # float64 [points]
    samples: tuple[Sample, ...]  # one a point, of the runs
    runs: int
    notes: tuple[str, ...] = ()

    @property
    def mean(self) -> np.ndarray:
        """Of the runs, float64 [points]."""
        return np.array([sample.mean for sample in self.samples])

    @property
    def sd(self) -> np.ndarray:
        """Sample standard deviation over the runs, float64 [points]; 0 for a single run."""
        return np.array([sample.sd or 0.0 for sample in self.samples])


def curve(group: Group, x: str, y: str) -> Curve | None:
    """The mean curve of a group; None where no run of it has both quantities.

    Args:
        group: runs to average.
        x: one of ``X_AXES``.
        y: a metric of ``RoundRecord.metrics``.
    """
    lines = {run.path.name: points(run, x, y) for run in group.runs}
    there = {name: line for name, line in lines.items() if len(line[0])}
    if not there:
        return None
    notes = []
    if len(there) < len(lines):
        notes.append(f"no {x} or {y} in {len(lines) - len(there)} of {len(lines)} runs")
    stopped = [run.path.name for run in group.runs if not run.finished]
    grid = _common_rounds(there) if x == "round" else _common_range(there, stopped)
    if not len(grid):
        notes.append(f"nothing in common along {x}")
    elif max(line[0][-1] for line in there.values()) > grid[-1]:
        end = epsilon_text(grid[-1]) if x == "epsilon" else f"{grid[-1]:g}"
        notes.append(f"the mean ends at {x} {end}, where the shortest of {len(there)} runs does")
    table = np.array([_held(line, grid) for line in there.values()])  # [runs, points]
    samples = tuple(summarize(column) for column in table.T)
    named = tuple(f"{group.label or 'runs'}: {note}" for note in notes)
    return Curve(group.label, grid, samples, len(table), named)


def curves(grouping: Grouping, x: str, y: str) -> list[Curve]:
    """One curve a group that has the two quantities.

    Raises:
        ConfigError: when no run has them, or their epsilons are of different kinds.
    """
    runs = grouping.runs
    check_metric(runs, y)
    if x == "epsilon":
        epsilon_terms(runs)
    lines = [curve(group, x, y) for group in grouping.groups]
    found = [line for line in lines if line is not None]
    if not found:
        other = "--x round" if x != "round" else "runs that have been evaluated"
        raise ConfigError(
            f"--x {x}: none of {counted(len(runs), 'run')} has it beside {y}; try {other}"
        )
    return found


def points(run: RunRecords, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """Where a run was scored: x and y, float64 ``[points]``, finite ones only."""
    xs, ys, seconds = [], [], 0.0
    for record in run.rounds:
        metrics = record.metrics
        spent = metrics.get(ROUND_SECONDS, 0.0)
        seconds += spent if math.isfinite(spent) else 0.0
        at = seconds if x == "seconds" else _position(metrics, record.round, x)
        value = metrics.get(y, math.nan)
        if math.isfinite(at) and math.isfinite(value):
            xs.append(at)
            ys.append(value)
    return np.array(xs, np.float64), np.array(ys, np.float64)


def check_metric(runs: Sequence[RunRecords], y: str) -> None:
    """Refuse a metric that no run has.

    Raises:
        ConfigError: names the nearest that there is.
    """
    there = {name: None for run in runs for record in run.rounds for name in record.metrics}
    if y not in there:
        hint = nearest(y, there)
        advice = f"did you mean {hint!r}?" if hint else f"there is {listed(there) or 'no round'}"
        raise ConfigError(f"--y {y} was recorded by none of {counted(len(runs), 'run')}; {advice}")


def epsilon_terms(runs: Sequence[RunRecords]) -> str:
    """Unit, relation, delta, sampling and accountant of the epsilons; empty without any.

    A run whose statement does not say counts as of the kind of the others.

    Raises:
        ConfigError: when they differ, as numbers of different kinds have no common axis.
    """
    kinds: dict[str, str] = {}
    for run in runs:
        sentence = str((run.privacy or {}).get("sentence", ""))  # ends in what its epsilon means
        start = sentence.find("unit ")
        if start >= 0:
            kinds.setdefault(sentence[start:].rstrip(")"), run.path.name)
    if len(kinds) > 1:
        (one, first), (two, second) = list(kinds.items())[:2]
        raise ConfigError(
            f"epsilons of different kinds cannot share an axis ({first}: {one}; {second}: {two}); "
            "plot one at a time, as in privacy.unit=text"
        )
    return next(iter(kinds), "")


def _position(metrics: Mapping[str, float], number: int, x: str) -> float:
    """Where a round is along an axis; nothing was sent or spent before the first."""
    if x == "round":
        return float(number)
    if x == "epsilon":
        return metrics.get(EPSILON, math.nan)
    keys = (UPLINK_TOTAL,) if x == "uplink_bytes" else (UPLINK_TOTAL, DOWNLINK_TOTAL)
    return float(sum(metrics.get(key, math.nan) for key in keys)) if number else 0.0


def _common_rounds(lines: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Rounds in which every run was scored."""
    sets = [set(line[0].tolist()) for line in lines.values()]
    return np.array(sorted(set.intersection(*sets)), np.float64)


def _common_range(
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]], stopped: Sequence[str]
) -> np.ndarray:
    """Every position at which some run was scored: from the last beginning to the end.

    A finished run goes on with its last value; one that stopped ends the range.
    """
    grid = np.unique(np.concatenate([line[0] for line in lines.values()]))
    first = max(line[0][0] for line in lines.values())
    last = min((lines[name][0][-1] for name in stopped if name in lines), default=math.inf)
    return grid[(grid >= first) & (grid <= last)]


def _held(line: tuple[np.ndarray, np.ndarray], grid: np.ndarray) -> np.ndarray:
    """The last value at or before each position."""
    return line[1][np.searchsorted(line[0], grid, side="right") - 1]
