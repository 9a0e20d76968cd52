"""Compares runs: one row a configuration, its seeds summed up, differences to a baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ffalora_cli.config.errors import ConfigError, listed
from ffalora_cli.metric_keys import EPSILON, UPLINK_TOTAL, short_name
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.report import statistics
from ffalora_cli.report.comparability import MEANINGLESS, differences, other_inputs
from ffalora_cli.report.moments import (
    FINAL,
    EvaluationPoint,
    full_name,
    headline,
    record_at,
    value_of,
)
from ffalora_cli.report.selection import values_of
from ffalora_cli.report.settings import carried, column_of, differing, further_columns, setting
from ffalora_cli.report.standings import against_baseline, block, ranked
from ffalora_cli.report.statistics import Paired, Sample


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
        ConfigError: nothing to compare, an unknown key or metric, or scores that are not of the
            same thing.
    """
    unfinished = tuple(run for run in runs if not run.finished)
    finished, repeated = once([run for run in runs if run.finished])
    if not finished:
        raise ConfigError(
            f"compare: {len(unfinished)} runs, none finished; go on with ffalora resume RUN"
        )
    metrics = _metrics(finished, question.metrics)
    found, following = differing(finished, question.over)
    columns = tuple(column_of(key) for key in question.by) or tuple(found) or ("method",)
    for key in (*columns, question.over):
        values_of(finished[0], key)
    more, mixed, told = further_columns(finished, columns, found)
    if not question.anyway:
        _refuse(finished, columns, question.by)
    columns += tuple(more)
    counted = [run for run in finished if value_of(run, question.point, metrics[0]) is not None]
    if not counted:
        evaluated = sorted({number for run in finished for number in run.series(headline(run))[0]})
        raise ConfigError(
            f"--at {question.point}: no run was evaluated then; rounds are {listed(evaluated)}"
        )
    groups: dict[tuple[str, ...], list[RunRecords]] = {}
    for run in counted:
        groups.setdefault(tuple(setting(run, key) for key in columns), []).append(run)
    rows = [
        _row(settings, groups[settings], metrics, question)
        for settings in sorted(groups, key=_order)
    ]
    rows = against_baseline(rows, columns, metrics, question, carried(finished, columns), mixed)
    rows = ranked(rows, columns, metrics)
    return Comparison(
        columns, metrics, tuple(rows), question, (*told, *following), tuple(more), tuple(mixed),
        unfinished, tuple(repeated), tuple(run for run in finished if run not in counted),
    )  # fmt: skip


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


def _refuse(runs: Sequence[RunRecords], columns: Sequence[str], by: Sequence[str]) -> None:
    """Refuse scores that are not of the same thing.

    Tasks may stand below each other where ``--by`` names them: rows of one task are then compared
    with each other alone.
    """
    blocks: dict[tuple[str, ...], list[RunRecords]] = {}
    named = columns if by else ()  # a column that nobody asked for excuses nothing
    for run in runs:
        blocks.setdefault(block(named, [setting(run, key) for key in named]), []).append(run)
    for members in blocks.values():
        for aspect, values in differences(members, MEANINGLESS).items():
            remedy = "select one with task=NAME, or name task in --by"
            if aspect.name != "tasks":
                remedy = "select runs of one"
            raise ConfigError(
                f"compare: {aspect.name} differ, {aspect.why} {listed(values)}; {remedy}, "
                "or add --anyway"
            )


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
    question: Question,
) -> Row:
    cells = []
    for metric in metrics:
        values = [value_of(run, question.point, metric) for run in runs]
        cells.append(Cell(statistics.summarize([v for v in values if v is not None])))
    sent = [value_of(run, question.point, UPLINK_TOTAL) or 0.0 for run in runs]
    spent = [value for run in runs if (value := _epsilon(run, question)) is not None]
    return Row(
        settings,
        tuple(runs),
        tuple(cells),
        epsilon=max(spent) if spent else None,
        uplink_bytes=sum(sent) / len(sent),
        baseline=None,
    )


def _epsilon(run: RunRecords, question: Question) -> float | None:
    """Spent by the evaluation point; None without privacy, infinite where nothing is proved."""
    if run.privacy is None:
        return None
    record = record_at(run, question.point)
    if record is not None and record.round == 0:
        return 0.0
    spent = value_of(run, question.point, EPSILON)
    if spent is None:
        spent = float((run.privacy.get("epsilon_max") or {}).get("spent") or math.inf)
    return spent
