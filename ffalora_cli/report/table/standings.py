"""Ranks rows: paired differences to a baseline, and the best of a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ffalora_cli.config.errors import ConfigError, listed
from ffalora_cli.report.runs import statistics
from ffalora_cli.report.runs.comparability import pairing
from ffalora_cli.report.runs.moments import value_of
from ffalora_cli.report.runs.settings import setting
from ffalora_cli.tasks.registry import higher_is_better

if TYPE_CHECKING:
    from ffalora_cli.report.table.rows import Question, Row


def block(columns: Sequence[str], settings: Sequence[str]) -> tuple[str, ...]:
    """What rows share that may be held against each other: all that a row says of its task."""
    pairs = zip(columns, settings, strict=False)
    return tuple(value for key, value in pairs if key.split(".")[0] == "task")


def against_baseline(
    rows: Sequence[Row],
    columns: Sequence[str],
    metrics: Sequence[str],
    question: Question,
    carried: Sequence[str],
    mixed: Sequence[str],
) -> list[Row]:
    """Rows with their paired differences to the row that the baseline's settings lead to.

    Args:
        rows: of one comparison.
        columns: keys of their settings.
        metrics: of their cells.
        question: what was asked.
        carried: columns that the others determine; a row and its baseline may differ in them.
        mixed: seeds that differ within rows; runs of a pair agree in them.

    Raises:
        ConfigError: for a baseline that no row is.
    """
    changes = dict(question.baseline) or _default(rows, columns)
    unknown = [key for key in changes if key not in columns]
    if unknown:
        raise ConfigError(f"--baseline {unknown[0]}=: rows are made by {listed(columns)}; name one")
    free = [key for key in carried if key not in changes]
    core = [column for column, key in enumerate(columns) if key not in free]

    def target(row: Row, changes: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(changes.get(columns[column], row.settings[column]) for column in core)

    named = {target(row, {}): row for row in rows}
    if question.baseline and not any(target(row, changes) in named for row in rows):
        raise ConfigError(
            f"--baseline {','.join(f'{k}={v}' for k, v in changes.items())} is none of the rows: "
            f"{listed('/'.join(row.settings) for row in rows)}"
        )
    found = []
    for row in rows:
        base = named.get(target(row, changes))
        if base is None:
            found.append(row)
        elif base is row:
            found.append(replace(row, baseline=row.settings))
        else:
            cells = [
                replace(cell, against=_paired(row, base, metric, question, mixed))
                for cell, metric in zip(row.cells, metrics, strict=True)
            ]
            found.append(replace(row, cells=tuple(cells), baseline=base.settings))
    return found


def ranked(rows: Sequence[Row], columns: Sequence[str], metrics: Sequence[str]) -> list[Row]:
    """Rows with the best of each task and metric marked, and those not left behind."""
    cells = [list(row.cells) for row in rows]
    blocks: dict[tuple[str, ...], list[int]] = {}
    for index, row in enumerate(rows):
        blocks.setdefault(block(columns, row.settings), []).append(index)
    for members in blocks.values():
        for column, metric in enumerate(metrics):
            samples = [cells[index][column].sample for index in members]
            if sum(sample.count > 0 for sample in samples) < 2:
                continue
            first, near = statistics.best(samples, higher_is_better(metric))
            for position, index in enumerate(members):
                rank = "best" if position == first else "tied" if position in near else ""
                cells[index][column] = replace(cells[index][column], rank=rank)
    return [replace(row, cells=tuple(own)) for row, own in zip(rows, cells, strict=True)]


def _default(rows: Sequence[Row], columns: Sequence[str]) -> Mapping[str, str]:
    """Plain LoRA where methods differ and it is there, else the first row of each task."""
    if "method" in columns:
        column = columns.index("method")
        if any(row.settings[column] == "lora" for row in rows):
            return {"method": "lora"}
    return {
        key: value
        for key, value in zip(columns, rows[0].settings, strict=True)
        if key.split(".")[0] != "task"
    }


def _paired(
    row: Row, base: Row, metric: str, question: Question, mixed: Sequence[str]
) -> statistics.Paired:
    """Differences of runs that share the key averaged over, their clients' rows, and the rest."""
    sides = []
    for side in (row, base):
        values = {}
        for run in side.runs:
            value = value_of(run, question.point, metric)
            if value is not None:
                rest = tuple(setting(run, key) for key in mixed)
                values[(*pairing(run, question.over), *rest)] = value
        sides.append(values)
    return statistics.paired(*sides)
