"""The values of a comparison: question, cell, row, table."""

from __future__ import annotations

from dataclasses import dataclass

from ffalora_cli.records.reading import RunRecords
from ffalora_cli.report.runs.moments import (
    FINAL,
    EvaluationPoint,
)
from ffalora_cli.report.runs.statistics import Paired, Sample


@dataclass(frozen=True)
class Question:
    """What a comparison asks.

    Attributes:
        by: keys that make rows; empty for those that differ.
        over: the key that is averaged over.
        metrics: names; empty for the one that the runs are judged by.
        point: where to read each run.
        baseline: settings that change a row into the row it is compared with; empty for
            ``method=lora`` where methods differ, else for the first row.
        anyway: compare what differs in task, version or evaluation rows.
    """

    by: tuple[str, ...] = ()
    over: str = "seed"
    metrics: tuple[str, ...] = ()
    point: EvaluationPoint = FINAL
    baseline: tuple[tuple[str, str], ...] = ()
    anyway: bool = False


@dataclass(frozen=True)
class Cell:
    """One metric of one row."""

    sample: Sample
    rank: str = ""  # "best", "tied" (within the best one's interval) or nothing
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
    cells: tuple[Cell, ...]  # in the order of the comparison's metrics
    epsilon: float | None  # largest of its runs at the evaluation point; None without privacy
    uplink_bytes: float  # mean of its runs, all clients together, at the evaluation point
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
    def runs(self) -> tuple[RunRecords, ...]:
        """All runs that count."""
        return tuple(run for row in self.rows for run in row.runs)
