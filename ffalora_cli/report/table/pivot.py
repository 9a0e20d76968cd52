"""Shows a comparison as papers do: some settings down, others across, a metric in the cells."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from ffalora_cli.config.errors import ConfigError, brief, counted
from ffalora_cli.report.csv_text import csv_text
from ffalora_cli.report.names import Names
from ffalora_cli.report.runs.settings import column_of
from ffalora_cli.report.table.formats import ABSENT, Grid
from ffalora_cli.report.table.notes import legend, notes
from ffalora_cli.report.table.numbers import Scale, scale_of
from ffalora_cli.report.table.rows import Comparison, Row

_Place = tuple[str, ...]


def axes(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """``method,adapter.rank:partition.dirichlet_alpha`` as keys of rows and keys of columns.

    Raises:
        ConfigError: one side is missing, or a key is on both.
    """
    sides = [
        tuple(column_of(key.strip()) for key in side.split(",") if key.strip())
        for side in text.split(":")
    ]
    if len(sides) != 2 or not all(sides):
        raise ConfigError(
            f"--pivot {brief(text)} is not ROWS:COLUMNS; write --pivot "
            "method:partition.dirichlet_alpha"
        )
    rows, columns = sides
    if both := set(rows) & set(columns):
        raise ConfigError(f"--pivot {brief(text)}: {both.pop()} is on both sides; leave it on one")
    return rows, columns


def grid(comparison: Comparison) -> Grid:
    """Rows and columns of ``question.across``; the metrics, where there are several, side by side.

    A cell of fewer runs than others says of how many, one that nobody ran is a dash.
    """
    question, metrics = comparison.question, comparison.metrics
    names, down = question.names, _down(comparison)
    lines, columns, found = _places(comparison)
    most = max(len(row.runs) for row in comparison.rows)
    scales = _scales(comparison)
    cells, marks = [], {}
    for i, line in enumerate(lines):
        own = [names.value(key, value) for key, value in zip(down, line, strict=True)]
        for j, (column, m) in enumerate(columns, len(down)):
            row = found.get((line, column))
            own.append(ABSENT if row is None else _cell(comparison, row, m, scales[m], most))
            marks[i, j] = row.cells[m].rank if row else ""
        cells.append(tuple(own))
    tiers = [
        [
            *map(names.said, question.across, column),
            *([scales[m].title] if len(metrics) > 1 else []),
        ]
        for column, m in columns
    ]
    titles = tuple(map(names.key, down))
    spans, under = _spans(tiers, [column for column, _ in columns], question.across, names)
    return Grid(
        (*titles, *(", ".join(tier) for tier in tiers)),
        tuple(cells),
        len(down),
        (
            *_of_cells(
                comparison, scales, most, len(found) < len(lines) * len(columns) // len(metrics)
            ),
            *notes(comparison),
        ),
        marks,
        legend(comparison),
        tuple((("", len(down)), *line) for line in spans),
        (*titles, *under),
    )


def as_csv(comparison: Comparison) -> str:
    """The same rows and columns with plain numbers: mean, deviation, interval and runs apart."""
    lines, columns, found = _places(comparison)
    rows = []
    for line in lines:
        written: dict[str, object] = dict(zip(_down(comparison), line, strict=True))
        for column, m in columns:
            pairs = zip(comparison.question.across, column, strict=True)
            name = " ".join([*(f"{k}={v}" for k, v in pairs), comparison.metrics[m]])
            row = found.get((line, column))
            sample = row.cells[m].sample if row else None
            written |= {
                f"{name}:mean": sample.mean if sample and sample.count else None,
                f"{name}:sd": sample and sample.sd,
                f"{name}:ci95_half_width": sample and sample.half_width,
                f"{name}:n": sample.count if sample else 0,
                f"{name}:runs": len(row.runs) if row else 0,
                f"{name}:standing": row.cells[m].rank if row else "",
            }
        rows.append(written)
    return csv_text(rows).rstrip("\n")


def _down(comparison: Comparison) -> list[str]:
    """Keys of rows: those asked for and, lest runs be mixed, what else differs."""
    return [key for key in comparison.columns if key not in comparison.question.across]


def _places(
    comparison: Comparison,
) -> tuple[list[_Place], list[tuple[_Place, int]], dict[tuple[_Place, _Place], Row]]:
    """Settings of the rows, settings and metric of the columns, and what stands where."""
    names, keys, across = comparison.question.names, comparison.columns, comparison.question.across
    down = _down(comparison)
    found = {}
    for row in comparison.rows:
        own = dict(zip(keys, row.settings, strict=True))
        found[tuple(own[k] for k in down), tuple(own[k] for k in across)] = row
    lines = names.ordered(down, {line for line, _ in found})
    columns = names.ordered(across, {column for _, column in found})
    return lines, [(c, m) for c in columns for m in range(len(comparison.metrics))], found


def _scales(comparison: Comparison) -> list[Scale]:
    scales = []
    for m, metric in enumerate(comparison.metrics):
        means = [row.cells[m].sample.mean for row in comparison.rows if row.cells[m].sample.count]
        scales.append(scale_of(metric, max(means, default=0.0)))
    return scales


def _cell(comparison: Comparison, row: Row, m: int, scale: Scale, most: int) -> str:
    sample = row.cells[m].sample
    text = scale.spread(sample, comparison.question.interval) if sample.count else ABSENT
    if row.reached < len(row.runs):
        return f"{text} ({row.reached}/{len(row.runs)})"
    return f"{text} ({len(row.runs)})" if len(row.runs) < most else text


def _of_cells(comparison: Comparison, scales: Sequence[Scale], most: int, empty: bool) -> list[str]:
    """What a cell is, of how many runs, and what one without a number means."""
    shown = " and ".join(scale.title for scale in scales)
    found = [f"cells: {shown}; n = {counted(most, 'run')} each"]
    if any(len(row.runs) < most for row in comparison.rows):
        found[0] += ", in brackets where fewer"
    if any(row.reached < len(row.runs) for row in comparison.rows):
        found[0] += "; (reached/runs) where some never reach it"
    return [*found, *([f"{ABSENT}: not run"] if empty else [])]


def _spans(
    tiers: Sequence[Sequence[str]], columns: Sequence[_Place], across: Sequence[str], names: Names
) -> tuple[list[list[tuple[str, int]]], list[str]]:
    """Titles that several columns share, and the short ones below: α above, its values under it."""
    if len(tiers[0]) == 1 and "=" in tiers[0][0]:
        (key,) = across
        return [[(names.key(key), len(tiers))]], [names.value(key, value) for (value,) in columns]
    spans = []
    for depth in range(1, len(tiers[0])):
        same = groupby(tier[:depth] for tier in tiers)
        spans.append([(shared[-1], len(list(own))) for shared, own in same])
    return spans, [tier[-1] for tier in tiers]
