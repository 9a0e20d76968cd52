"""Compares runs: one row a configuration, its seeds summed up, differences to a baseline."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ffalora_cli.config.errors import ConfigError, brief, choose, listed
from ffalora_cli.metric_keys import EPSILON, UPLINK_TOTAL, evaluated, short_name
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.report import statistics
from ffalora_cli.report.settings import (
    MEANINGLESS,
    carried,
    column_of,
    differences,
    grouped,
    once,
    pairing,
    row_of,
    split,
)
from ffalora_cli.report.statistics import Paired, Sample
from ffalora_cli.tasks.registry import higher_is_better
from ffalora_cli.types import RoundRecord

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_BYTES = re.compile(r"(\d+(?:\.\d+)?)([a-z]*)", re.IGNORECASE)


@dataclass(frozen=True)
class EvaluationPoint:
    """The round at which a run is read: ``final``, ``best-validation``, ``round`` or ``bytes``."""

    kind: str
    amount: int = 0  # the round, or the uplink bytes of all clients together

    def __str__(self) -> str:
        return f"{self.kind}={self.amount}" if self.amount or self.kind == "round" else self.kind


FINAL = EvaluationPoint("final")


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


def compare(runs: Sequence[RunRecords], question: Question) -> Comparison:
    """Put runs side by side.

    Args:
        runs: finished or not; unfinished ones are named and left out.
        question: what is asked.

    Raises:
        ConfigError: nothing to compare, an unknown key or metric, scores that are not of the same
            thing, or a baseline that no row is.
    """
    unfinished = tuple(run for run in runs if not run.finished)
    finished, repeated = once([run for run in runs if run.finished])
    if not finished:
        raise ConfigError(
            f"compare: {len(unfinished)} runs, none finished; go on with ffalora resume RUN"
        )
    metrics = _metrics(finished, question.metrics)
    found = split(finished, question.by, question.over)
    if not question.anyway:
        _refuse(finished, question.by)
    counted = [run for run in finished if value_of(run, question.point, metrics[0]) is not None]
    if not counted:
        rounds = sorted({number for run in finished for number in run.series(headline(run))[0]})
        raise ConfigError(
            f"--at {question.point}: no run was evaluated then; rounds are {listed(rounds)}"
        )
    groups = grouped(counted, lambda run: row_of(run, found.columns))
    rows = [_row(key, groups[key], metrics, question.point) for key in sorted(groups, key=_order)]
    table = Comparison(
        found.columns, metrics, tuple(rows), question, found.following, found.further, found.seeds,
        unfinished, tuple(repeated), tuple(run for run in finished if run not in counted),
    )  # fmt: skip
    return _ranked(_against_baseline(table, carried(finished, found.columns)))


def _metrics(runs: Sequence[RunRecords], wanted: Sequence[str]) -> tuple[str, ...]:
    if wanted:
        return tuple(dict.fromkeys(full_name(metric, runs) for metric in wanted))
    judged = sorted({headline(run) for run in runs})
    if len(judged) > 1:
        raise ConfigError(
            f"--metric: these runs are judged by different ones ({listed(judged)}); "
            f"name one, as in --metric {short_name(judged[0])}"
        )
    return (judged[0],)


def _refuse(runs: Sequence[RunRecords], by: Sequence[str]) -> None:
    """Refuse scores that are not of the same thing.

    Tasks may stand below each other where ``--by`` names them: rows of one task are then compared
    with each other alone. A column that nobody asked for excuses nothing.
    """
    named = [column_of(key) for key in by]
    for members in grouped(runs, lambda run: _task(named, row_of(run, named))).values():
        for aspect, values in differences(members, MEANINGLESS).items():
            remedy = "select one with task=NAME, or name task in --by"
            if aspect.name != "tasks":
                remedy = "select runs of one"
            raise ConfigError(
                f"compare: {aspect.name} differ, {aspect.why} {listed(values)}; {remedy}, "
                "or add --anyway"
            )


def _task(columns: Sequence[str], settings: Sequence[str]) -> tuple[str, ...]:
    """What rows share that may be held against each other: all that a row says of its task."""
    pairs = zip(columns, settings, strict=True)
    return tuple(value for key, value in pairs if key.split(".")[0] == "task")


def _order(settings: tuple[str, ...]) -> list[tuple[int, float, str]]:
    """Numbers by size, then words by letter, then nothing."""
    keys = []
    for text in settings:
        try:
            keys.append((0, float(text), ""))
        except ValueError:
            keys.append((1 if text not in ("null", "-") else 2, 0.0, text))
    return keys


def _row(
    settings: tuple[str, ...],
    runs: Sequence[RunRecords],
    metrics: Sequence[str],
    point: EvaluationPoint,
) -> Row:
    cells = []
    for metric in metrics:
        values = [value_of(run, point, metric) for run in runs]
        cells.append(Cell(statistics.summarize([v for v in values if v is not None])))
    sent = [value_of(run, point, UPLINK_TOTAL) or 0.0 for run in runs]
    spent = [value for run in runs if (value := _epsilon(run, point)) is not None]
    epsilon = max(spent, default=None)
    return Row(settings, tuple(runs), tuple(cells), epsilon, sum(sent) / len(sent), baseline=None)


def _epsilon(run: RunRecords, point: EvaluationPoint) -> float | None:
    """Spent by the evaluation point; None without privacy, infinite where nothing is proved."""
    if run.privacy is None:
        return None
    record = record_at(run, point)
    if record is not None and record.round == 0:
        return 0.0
    spent = value_of(run, point, EPSILON)
    if spent is None:
        spent = float((run.privacy.get("epsilon_max") or {}).get("spent") or math.inf)
    return spent


def _against_baseline(table: Comparison, carried: Collection[str]) -> Comparison:
    """The table with paired differences of each row to the one the baseline's settings lead to.

    Args:
        table: without differences.
        carried: columns that the others determine; a row and its baseline may differ in them.
    """
    columns = table.columns
    changes = dict(table.question.baseline) or _default_baseline(table)
    unknown = [key for key in changes if key not in columns]
    if unknown:
        raise ConfigError(f"--baseline {unknown[0]}=: rows are made by {listed(columns)}; name one")
    core = [i for i, key in enumerate(columns) if key in changes or key not in carried]

    def target(row: Row, changes: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(changes.get(columns[i], row.settings[i]) for i in core)

    named = {target(row, {}): row for row in table.rows}
    bases = [named.get(target(row, changes)) for row in table.rows]
    if table.question.baseline and not any(bases):
        raise ConfigError(
            f"--baseline {','.join(f'{k}={v}' for k, v in changes.items())} is none of the rows: "
            f"{listed('/'.join(row.settings) for row in table.rows)}"
        )
    rows = [
        row if base is None else _held_against(table, row, base)
        for row, base in zip(table.rows, bases, strict=True)
    ]
    return replace(table, rows=tuple(rows))


def _default_baseline(table: Comparison) -> Mapping[str, str]:
    """Plain LoRA where methods differ and it is there, else the first row of each task."""
    if "method" in table.columns:
        column = table.columns.index("method")
        if any(row.settings[column] == "lora" for row in table.rows):
            return {"method": "lora"}
    first = zip(table.columns, table.rows[0].settings, strict=True)
    return {key: value for key, value in first if key.split(".")[0] != "task"}


def _held_against(table: Comparison, row: Row, base: Row) -> Row:
    """The row minus its baseline, over runs that share seed, clients' rows and other seeds."""
    if base is row:
        return replace(row, baseline=row.settings)
    cells = []
    for cell, metric in zip(row.cells, table.metrics, strict=True):
        ours, theirs = (
            {
                (*pairing(run, table.question.over), *row_of(run, table.mixed)): value
                for run in side.runs
                if (value := value_of(run, table.question.point, metric)) is not None
            }
            for side in (row, base)
        )
        cells.append(replace(cell, against=statistics.paired(ours, theirs)))
    return replace(row, cells=tuple(cells), baseline=base.settings)


def _ranked(table: Comparison) -> Comparison:
    """The table with the best of each task and metric marked, and those not left behind."""
    cells = [list(row.cells) for row in table.rows]
    tasks = grouped(
        range(len(cells)), lambda index: _task(table.columns, table.rows[index].settings)
    )
    for members in tasks.values():
        for column, metric in enumerate(table.metrics):
            samples = [cells[index][column].sample for index in members]
            if sum(sample.count > 0 for sample in samples) < 2:
                continue
            first, near = statistics.best(samples, higher_is_better(metric))
            for position, index in enumerate(members):
                rank = "best" if position == first else "tied" if position in near else ""
                cells[index][column] = replace(cells[index][column], rank=rank)
    rows = zip(table.rows, cells, strict=True)
    return replace(table, rows=tuple(replace(row, cells=tuple(own)) for row, own in rows))


def parse(text: str) -> EvaluationPoint:
    """``final``, ``best-validation``, ``round=N`` or ``bytes=X`` (10MB, 1.5e6), read.

    Raises:
        ConfigError: for anything else.
    """
    kind, equals, amount = text.partition("=")
    if not equals and kind in ("final", "best-validation"):
        return EvaluationPoint(kind)
    if kind == "round" and amount.isdecimal():
        return EvaluationPoint(kind, int(amount))
    match = _BYTES.fullmatch(amount.strip()) if kind == "bytes" else None
    if match and match[2].lower() in _UNITS:
        return EvaluationPoint(kind, round(float(match[1]) * _UNITS[match[2].lower()]))
    if kind in ("round", "bytes"):
        example = "round=10" if kind == "round" else "bytes=10MB"
        raise ConfigError(f"--at {brief(text)} has no number; write --at {example}")
    raise choose("--at", text, ("final", "best-validation", "round=N", "bytes=X"))


def headline(run: RunRecords) -> str:
    """The metric a run is judged by, by which rounds count as evaluated and are chosen."""
    told = (run.summary or {}).get("headline")
    return str(told or evaluated(run.config["task"]["metrics"][0]))


def record_at(run: RunRecords, point: EvaluationPoint) -> RoundRecord | None:
    """The round of a run that an evaluation point means; None where it never had it.

    ``final`` is the last evaluated round, ``best-validation`` the first with the best headline,
    ``round=N`` that very round, which must have been evaluated, and ``bytes=X`` the last evaluated
    round by which all clients together had sent no more than X bytes.
    """
    metric = headline(run)
    scored = [r for r in run.rounds if math.isfinite(r.metrics.get(metric, math.nan))]
    if point.kind == "round":
        scored = [record for record in scored if record.round == point.amount]
    if point.kind == "bytes":
        scored = [r for r in scored if r.metrics.get(UPLINK_TOTAL, 0.0) <= point.amount]
    if not scored:
        return None
    if point.kind == "best-validation":
        sign = 1.0 if higher_is_better(metric) else -1.0
        return max(scored, key=lambda record: (sign * record.metrics[metric], -record.round))
    return scored[-1]


def value_of(run: RunRecords, point: EvaluationPoint, metric: str) -> float | None:
    """The latest finite value of a metric by an evaluation point; None where the run has none.

    Sums and evaluations are not recorded in every round: what holds at a round is the last.
    """
    record = record_at(run, point)
    if record is None:
        return None
    earlier = [r.metrics.get(metric, math.nan) for r in run.rounds if r.round <= record.round]
    finite = [value for value in earlier if math.isfinite(value)]
    return float(finite[-1]) if finite else None


def full_name(metric: str, runs: Iterable[RunRecords]) -> str:
    """``accuracy`` as ``eval/accuracy``; a metric must have been recorded by some run.

    Raises:
        ConfigError: for one that no run recorded; names the nearest.
    """
    recorded = sorted({name for run in runs for record in run.rounds for name in record.metrics})
    for name in (metric, evaluated(metric)):
        if name in recorded:
            return name
    raise choose("--metric", metric, recorded)
