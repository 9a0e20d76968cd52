"""Compares runs: one row a configuration, its seeds summed up, differences to a baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ffalora_cli.config.errors import ConfigError, listed
from ffalora_cli.metric_keys import EPSILON, UPLINK_TOTAL, short_name
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.report.runs import statistics
from ffalora_cli.report.runs.comparability import MEANINGLESS, differences
from ffalora_cli.report.runs.grouping import once
from ffalora_cli.report.runs.moments import (
    full_name,
    headline,
    record_at,
    value_of,
)
from ffalora_cli.report.runs.selection import values_of
from ffalora_cli.report.runs.settings import carried, column_of, differing, further_columns, setting
from ffalora_cli.report.table.rows import Cell, Comparison, Question, Row
from ffalora_cli.report.table.standings import against_baseline, block, ranked


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
