"""Compares runs: one row a configuration, its seeds summed up, differences to a baseline."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace

from ffalora_cli.config.errors import ConfigError, counted, listed
from ffalora_cli.metric_keys import EPSILON, ROUND_SECONDS, UPLINK_TOTAL, short_name
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.report.runs import statistics
from ffalora_cli.report.runs.moments import (
    EvaluationPoint,
    full_name,
    headline,
    more_is_better,
    record_at,
    value_of,
)
from ffalora_cli.report.runs.settings import (
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
from ffalora_cli.report.table.rows import Cell, Comparison, Question, Row

REACHED = ("round", "uplink_bytes", "epsilon", "seconds")
"""What is told of reaching a score, unless other metrics are named."""


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
            f"compare: {counted(len(unfinished), 'run')}, none finished; "
            "go on with ffalora resume RUN"
        )
    metrics = _metrics(finished, question)
    found = split(finished, question.by, question.over)
    if not question.anyway:
        _refuse(finished, question.by)
    reach = question.point.kind == "reach"  # a run that never does is no run left out
    valued = [
        run for run in finished if reach or value_of(run, question.point, metrics[0]) is not None
    ]
    if not valued:
        rounds = sorted({number for run in finished for number in run.series(headline(run))[0]})
        when = (
            f"then; rounds are {listed(rounds)}"
            if rounds
            else "at all; new runs need federation.eval_every"
        )
        raise ConfigError(f"--at {question.point}: no run was evaluated {when}")
    groups = grouped(valued, lambda run: row_of(run, found.columns))
    ordered = question.names.ordered(found.columns, groups)
    rows = [_row(key, groups[key], metrics, question.point) for key in ordered]
    table = Comparison(
        found.columns, metrics, tuple(rows), question, found.following, found.further, found.seeds,
        unfinished, tuple(repeated), tuple(run for run in finished if run not in valued),
    )  # fmt: skip
    return _ranked(_against_baseline(table, carried(finished, found.columns)))


def _metrics(runs: Sequence[RunRecords], question: Question) -> tuple[str, ...]:
    if question.metrics:
        return tuple(dict.fromkeys(full_name(metric, runs) for metric in question.metrics))
    if question.point.kind == "reach":
        return REACHED
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


def _row(
    settings: tuple[str, ...],
    runs: Sequence[RunRecords],
    metrics: Sequence[str],
    point: EvaluationPoint,
) -> Row:
    cells = []
    reached = sum(record_at(run, point) is not None for run in runs)
    for metric in metrics:
        values = [value_of(run, point, metric) for run in runs]
        cells.append(Cell(statistics.summarize([v for v in values if v is not None])))
    sent = [value_of(run, point, UPLINK_TOTAL) or 0.0 for run in runs]
    spent = [value for run in runs if (value := _epsilon(run, point)) is not None]
    epsilon = max(spent, default=None)
    wall = [run.summary["seconds"] for run in runs if run.summary and run.summary.get("seconds")]
    times = [run.series(ROUND_SECONDS)[1] for run in runs]
    rounds = [sum(own) / len(own) for own in times if own and all(map(math.isfinite, own))]
    return Row(
        settings, tuple(runs), reached, tuple(cells), epsilon, sum(sent) / len(sent),
        statistics.summarize(wall), statistics.summarize(rounds), baseline=None,
    )  # fmt: skip


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
        ours, theirs = (_by_pair(table, side, metric) for side in (row, base))
        cells.append(replace(cell, against=statistics.paired(ours, theirs)))
    return replace(row, cells=tuple(cells), baseline=base.settings)


def _by_pair(table: Comparison, row: Row, metric: str) -> dict[Hashable, float]:
    """A row's values by what the runs of a pair share; the mean where several share it."""
    runs = grouped(
        row.runs, lambda run: (*pairing(run, table.question.over), *row_of(run, table.mixed))
    )
    found = {}
    for pair, own in runs.items():
        read = [value_of(run, table.question.point, metric) for run in own]
        if values := [value for value in read if value is not None]:
            found[pair] = sum(values) / len(values)
    return found


def _ranked(table: Comparison) -> Comparison:
    """The table with the best of each metric marked, and those not separable from it.

    A row in which some run never reaches what all should takes no part.
    """
    cells = [list(row.cells) for row in table.rows]
    whole = [
        index
        for index, row in enumerate(table.rows)
        if table.question.point.kind != "reach" or row.reached == len(row.runs)
    ]

    places = [table.columns.index(key) for key in table.within]
    groups = grouped(whole, lambda index: tuple(table.rows[index].settings[p] for p in places))
    for members in groups.values():
        for column, metric in enumerate(table.metrics):
            samples = [cells[index][column].sample for index in members]
            values = [_by_pair(table, table.rows[index], metric) for index in members]
            ranks = statistics.standings(samples, values, more_is_better(metric))
            for index, rank in zip(members, ranks, strict=True):
                cells[index][column] = replace(cells[index][column], rank=rank)
    rows = zip(table.rows, cells, strict=True)
    return replace(table, rows=tuple(replace(row, cells=tuple(own)) for row, own in rows))
