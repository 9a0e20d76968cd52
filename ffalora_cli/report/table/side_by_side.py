"""Shows a comparison row by row: as a table of text, as CSV, as JSON."""

from __future__ import annotations

import math
from typing import Any

from ffalora_cli.privacy.rounding import epsilon_text
from ffalora_cli.report.csv_text import csv_text
from ffalora_cli.report.runs.statistics import Sample
from ffalora_cli.report.table.formats import ABSENT, Grid, strict_json
from ffalora_cli.report.table.notes import baseline_name, legend, notes
from ffalora_cli.report.table.numbers import Scale, scale_of
from ffalora_cli.report.table.rows import Cell, Comparison, Row

_Column = tuple[str, list[str]]


def grid(comparison: Comparison) -> Grid:
    """The table for people: scores in percent, bytes in one unit, dashes for what is not there."""
    rows, words, names = comparison.rows, len(comparison.columns), comparison.question.names
    reach = comparison.question.point.kind == "reach"
    columns: list[_Column] = [
        (names.key(key), [names.value(key, row.settings[i]) for row in rows])
        for i, key in enumerate(comparison.columns)
    ]
    if reach:
        columns.append(("reached", [f"{row.reached}/{len(row.runs)}" for row in rows]))
    at = {}  # title's place of a metric
    for i in range(len(comparison.metrics)):
        own = _of_metric(comparison, i, short=reach and i > 0)
        at[len(columns)] = i
        columns += own
    columns += [] if reach else _costs(rows)
    empty = {ABSENT, "baseline"}
    kept = [  # what was asked for stays, whatever it holds
        place for place, column in enumerate(columns) if place < words or set(column[1]) - empty
    ]
    ranks = [(at[place], j) for j, place in enumerate(kept) if place in at]
    head, texts = zip(*(columns[place] for place in kept), strict=True)
    return Grid(
        head,
        tuple(zip(*texts, strict=True)),
        words,
        tuple(notes(comparison)),
        {(i, j): row.cells[m].rank for i, row in enumerate(rows) for m, j in ranks},
        legend(comparison),
        spare=sum(title.startswith("s ") for title in head),
    )


def _of_metric(comparison: Comparison, place: int, short: bool) -> list[_Column]:
    """Mean and spread, the deviation where that is an interval, and the difference."""
    rows, interval = comparison.rows, comparison.question.interval
    cells = [row.cells[place] for row in rows]
    largest = max((cell.sample.mean for cell in cells if cell.sample.count), default=0.0)
    scale = scale_of(comparison.metrics[place], largest)
    found = [(scale.title, [scale.spread(cell.sample, interval) for cell in cells])]
    if short:
        return found
    if interval:
        found.append(("sd", [scale.plain(cell.sample.sd) for cell in cells]))
    against = f"vs {baseline_name(comparison)}"
    return [*found, (against, [_difference(scale, place, row) for row in rows])]


def _costs(rows: tuple[Row, ...]) -> list[_Column]:
    """Runs, epsilon, bytes and wall-clock seconds."""
    up = scale_of("uplink_bytes", max(row.uplink_bytes for row in rows))
    seconds = scale_of("seconds")
    return [
        ("n", [str(len(row.runs)) for row in rows]),
        ("ε spent", [epsilon_text(row.epsilon) for row in rows]),
        (up.title, [up.plain(row.uplink_bytes) for row in rows]),
        ("s a run", [seconds.plain(row.seconds.mean) for row in rows]),
        ("s a round", [Scale("", decimals=2).plain(row.round_seconds.mean) for row in rows]),
    ]


def as_csv(comparison: Comparison) -> str:
    """One line a row, plain numbers in the units of the records; empty for what is not there."""
    lines = []
    for row in comparison.rows:
        line: dict[str, Any] = dict(zip(comparison.columns, row.settings, strict=True))
        for metric, cell in zip(comparison.metrics, row.cells, strict=True):
            sample, gap = cell.sample, cell.gap
            parts = {
                "mean": sample.mean if sample.count else None,
                "sd": sample.sd,
                "ci95_half_width": sample.half_width,
                "n": sample.count,
                "standing": cell.rank,
                "minus_baseline": gap and gap.mean,
                "minus_baseline_ci95_half_width": gap and gap.half_width,
                "minus_baseline_pairs": gap and gap.count,
            }
            line |= {f"{metric}:{part}": value for part, value in parts.items()}
        line |= {"baseline": "/".join(row.baseline or ()), "reached": row.reached}
        line |= {"epsilon": row.epsilon, "uplink_bytes": row.uplink_bytes}
        line |= {name: seconds.mean if seconds.count else None for name, seconds in _times(row)}
        line |= {"runs": " ".join(run.path.name for run in row.runs)}
        lines.append(line)
    return csv_text(lines).rstrip("\n")


def as_json(comparison: Comparison) -> str:
    """Everything, strict JSON under stable keys (``schema_version`` counts their changes)."""
    rows = [
        {
            "settings": dict(zip(comparison.columns, row.settings, strict=True)),
            "metrics": {
                metric: _numbers(cell)
                for metric, cell in zip(comparison.metrics, row.cells, strict=True)
            },
            "baseline": row.baseline and dict(zip(comparison.columns, row.baseline, strict=True)),
            "epsilon": "inf" if row.epsilon == math.inf else row.epsilon,
            "uplink_bytes": row.uplink_bytes,
            "reached": row.reached,
            **{name: _sample(seconds) for name, seconds in _times(row)},
            "runs": [run.path.name for run in row.runs],
        }
        for row in comparison.rows
    ]
    return strict_json(
        {
            "by": list(comparison.columns),
            "over": comparison.question.over,
            "at": str(comparison.question.point),
            "rows": rows,
            "unfinished": [run.path.name for run in comparison.unfinished],
            "notes": [
                *(f"{standing}: {words}" for standing, words in legend(comparison).items()),
                *notes(comparison),
            ],
        }
    )


def _numbers(cell: Cell) -> dict[str, Any]:
    against = None
    if cell.against is not None and cell.gap is not None:
        against = {
            **_sample(cell.gap),
            "pairs": [str(pair[0]) for pair in cell.against.pairs],  # type: ignore[index]
            "unpaired": cell.against.unpaired,
        }
    return {**_sample(cell.sample), "standing": cell.rank or None, "minus_baseline": against}


def _sample(sample: Sample) -> dict[str, Any]:
    ends = sample.interval
    return {
        "mean": sample.mean if sample.count else None,
        "sd": sample.sd,
        "n": sample.count,
        "interval95": None if ends is None else list(ends),
    }


def _times(row: Row) -> list[tuple[str, Sample]]:
    return [("run_seconds", row.seconds), ("round_seconds", row.round_seconds)]


def _difference(scale: Scale, place: int, row: Row) -> str:
    if row.baseline == row.settings:
        return "baseline"
    gap = row.cells[place].gap
    return ABSENT if gap is None else scale.spread(gap, interval=True, sign="+")
