"""The values of a comparison: question, cell, row, table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ffalora_cli.records.reading import RunRecords
from ffalora_cli.report.names import PAPER, Names
from ffalora_cli.report.runs.moments import FINAL, EvaluationPoint
from ffalora_cli.report.runs.statistics import Paired, Sample


@dataclass(frozen=True)
class Question:
    """What a comparison asks.

    Attributes:
        by: keys that make rows; empty for those that differ.
        over: the key that is averaged over.
        metrics: names; empty for the one that the runs are judged by, or for all costs where a
            score is reached.
        point: where to read each run.
        baseline: settings that change a row into the row it is compared with; empty for
            ``method=lora`` where methods differ, else for the first row.
        anyway: compare what differs in task, version or evaluation rows.
        across: keys that make columns instead of rows.
        best_of: what a best is the best of: its ``column`` or its ``row``.
        interval: what stands behind a ± : the 95 % interval of the mean, or the deviation.
        names: how keys and values are written and ordered.
    """

    by: tuple[str, ...] = ()
    over: str = "seed"
    metrics: tuple[str, ...] = ()
    point: EvaluationPoint = FINAL
    baseline: tuple[tuple[str, str], ...] = ()
    anyway: bool = False
    across: tuple[str, ...] = ()
    best_of: Literal["column", "row"] = "column"
    interval: bool = True
    names: Names = PAPER


@dataclass(frozen=True)
class Cell:
    """One metric of one row."""

    sample: Sample
    rank: str = ""  # "best", "tied" (not separable from it) or nothing
    against: Paired | None = None  # this row minus its baseline; None for a baseline itself

    @property
    def gap(self) -> Sample | None:
        """The differences to the baseline; None without a pair."""
        return self.against.differences if self.against and self.against.pairs else None


@dataclass(frozen=True)
class Row:
    """One configuration."""

    settings: tuple[str, ...]  # in the order of the comparison's columns
    runs: tuple[RunRecords, ...]
    reached: int  # how many of them have the evaluation point
    cells: tuple[Cell, ...]  # in the order of the comparison's metrics
    epsilon: float | None  # largest of its runs at the evaluation point; None without privacy
    uplink_bytes: float  # mean of its runs, all clients together, at the evaluation point
    seconds: Sample  # wall clock of its runs, as far as recorded
    round_seconds: Sample  # mean round of each of its runs, without evaluation
    baseline: tuple[str, ...] | None  # settings of the row it is compared with


@dataclass(frozen=True)
class Comparison:
    """A table, and what has to be said about it."""

    columns: tuple[str, ...]  # keys
    metrics: tuple[str, ...]  # full names
    rows: tuple[Row, ...]
    question: Question
    following: tuple[str, ...]  # keys that the columns determine
    split: tuple[str, ...]  # columns beside those asked for: rows would mix settings without them
    mixed: tuple[str, ...]  # other seeds that differ within rows
    unfinished: tuple[RunRecords, ...]
    repeated: tuple[RunRecords, ...]  # the same run again: counted once
    without: tuple[RunRecords, ...]  # finished, but no value at the evaluation point

    @property
    def within(self) -> tuple[str, ...]:
        """Columns in which rows agree that are held against each other; the task always is."""
        across = self.question.across
        if self.question.best_of == "row":
            across = tuple(key for key in self.columns if key not in across)
        return tuple(key for key in self.columns if key in across or key.split(".")[0] == "task")

    @property
    def runs(self) -> tuple[RunRecords, ...]:
        """All runs that count."""
        return tuple(run for row in self.rows for run in row.runs)
