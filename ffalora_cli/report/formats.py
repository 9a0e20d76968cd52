"""Formats a comparison: a grid of cells, Markdown, LaTeX, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass
from typing import Any

from ffalora_cli.metric_keys import short_name
from ffalora_cli.privacy.rounding import epsilon_text
from ffalora_cli.report.comparison import Cell, Comparison, Row
from ffalora_cli.report.notes import BEST, TIED, baseline_name, notes
from ffalora_cli.report.settings import title
from ffalora_cli.report.statistics import Sample
from ffalora_cli.report.style import byte_unit
from ffalora_cli.tasks.registry import is_percent

SCHEMA_VERSION = 1
_MARKS = {"best": BEST, "tied": TIED}
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "<": r"\textless{}", ">": r"\textgreater{}", "*": r"\textasteriskcentered{}",
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """A table of text.

    Attributes:
        head: titles.
        rows: cells, as long as the head.
        words: how many columns from the left are words; the rest are numbers.
        notes: below it.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int
    notes: tuple[str, ...]


def grid(comparison: Comparison) -> Grid:
    """The table for people: scores in percent, bytes in one unit, dashes for what is not there."""
    factor, unit = byte_unit(max((row.uplink_bytes for row in comparison.rows), default=0.0))
    several = any(cell.sample.sd is not None for row in comparison.rows for cell in row.cells)
    compared = any(row.baseline for row in comparison.rows) and len(comparison.rows) > 1
    private = any(row.epsilon is not None for row in comparison.rows)
    head = [title(key).replace("_", " ") for key in comparison.columns]
    for metric in comparison.metrics:
        name = short_name(metric)
        head.append(f"{name} %" if is_percent(metric) else name)
        head += ["sd"] if several else []
        head += [f"vs {baseline_name(comparison)}"] if compared else []
    head += ["n", *(["epsilon"] if private else []), f"up {unit}"]
    rows = []
    for row in comparison.rows:
        cells = [_worded(text) for text in row.settings]
        for metric, cell in zip(comparison.metrics, row.cells, strict=True):
            cells.append(_score(metric, cell))
            cells += [_plain(metric, cell.sample.sd)] if several else []
            cells += [_difference(metric, cell, row)] if compared else []
        cells.append(str(len(row.runs)))
        cells += [epsilon_text(row.epsilon)] if private else []
        cells.append(f"{row.uplink_bytes / factor:.2f}")
        rows.append(tuple(cells))
    words = len(comparison.columns)  # what was asked for stays, whatever it holds
    kept = [
        i
        for i in range(len(head))
        if i < words or any(row[i] not in ("-", "baseline") for row in rows)
    ]
    rows = [tuple(row[i] for i in kept) for row in rows]
    return Grid(tuple(head[i] for i in kept), tuple(rows), words, tuple(notes(comparison)))


def markdown(table: Grid) -> str:
    """A GitHub table with its notes as a list."""
    rules = [":--" if i < table.words else "--:" for i in range(len(table.head))]
    lines = [table.head, rules, *table.rows]
    text = [f"| {' | '.join(_markdown(cell) for cell in line)} |" for line in lines]
    return "\n".join([*text, "", *(f"- {_markdown(note)}" for note in table.notes)])


def latex(table: Grid) -> str:
    """A booktabs table; it needs the package booktabs and nothing else."""
    align = "l" * table.words + "r" * (len(table.head) - table.words)
    lines = [" & ".join(_latex(cell) for cell in line) + r" \\" for line in table.rows]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{{align}}}",
            r"\toprule",
            " & ".join(_latex(cell) for cell in table.head) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\par\medskip\raggedright\footnotesize",
            *(f"{_latex(note)}.\\par" for note in table.notes),
            r"\end{table}",
        ]
    )


def as_csv(comparison: Comparison) -> str:
    """One line a row, plain numbers in the units of the records; empty for what is not there."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    head = list(comparison.columns)
    for metric in comparison.metrics:
        parts = ("mean", "sd", "ci95_half_width", "n", "standing")
        head += [f"{metric}:{part}" for part in parts]
        head += [f"{metric}:minus_baseline{part}" for part in ("", "_ci95_half_width", "_pairs")]
    writer.writerow([*head, "baseline", "epsilon", "uplink_bytes", "runs"])
    for row in comparison.rows:
        values: list[Any] = list(row.settings)
        for cell in row.cells:
            sample, against = cell.sample, cell.against
            values += [sample.mean, sample.sd, sample.half_width, sample.count, cell.rank]
            gap = against.differences if against is not None and against.pairs else None
            values += [gap.mean, gap.half_width, gap.count] if gap else [None, None, None]
        values += ["/".join(row.baseline or ()), row.epsilon, row.uplink_bytes]
        values.append(" ".join(run.path.name for run in row.runs))
        writer.writerow(["" if _absent(value) else value for value in values])
    return stream.getvalue().rstrip("\n")


def as_json(comparison: Comparison) -> str:
    """Everything, strict JSON under stable keys (``schema_version`` counts their changes)."""
    rows = []
    for row in comparison.rows:
        metrics = {
            metric: {
                **_sample(cell.sample),
                "standing": cell.rank or None,
                "minus_baseline": None
                if cell.against is None or not cell.against.pairs
                else {
                    **_sample(cell.against.differences),
                    "pairs": [str(pair[0]) for pair in cell.against.pairs],  # type: ignore[index]
                    "unpaired": cell.against.unpaired,
                },
            }
            for metric, cell in zip(comparison.metrics, row.cells, strict=True)
        }
        rows.append(
            {
                "settings": dict(zip(comparison.columns, row.settings, strict=True)),
                "metrics": metrics,
                "baseline": None
                if row.baseline is None
                else dict(zip(comparison.columns, row.baseline, strict=True)),
                "epsilon": "inf" if row.epsilon == math.inf else row.epsilon,
                "uplink_bytes": row.uplink_bytes,
                "runs": [run.path.name for run in row.runs],
            }
        )
    content = {
        "schema_version": SCHEMA_VERSION,
        "by": list(comparison.columns),
        "over": comparison.question.over,
        "at": str(comparison.question.point),
        "rows": rows,
        "unfinished": [run.path.name for run in comparison.unfinished],
        "notes": notes(comparison),
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)


def _sample(sample: Sample) -> dict[str, Any]:
    ends = sample.interval
    return {
        "mean": sample.mean if sample.count else None,
        "sd": sample.sd,
        "n": sample.count,
        "interval95": None if ends is None else list(ends),
    }


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _worded(text: str) -> str:
    return "none" if text == "null" else text


def _plain(metric: str, value: float | None, sign: str = "") -> str:
    """A value as people write it: percents with two decimals, large ones with none."""
    if value is None or math.isnan(value):
        return "-"
    if is_percent(metric):
        return f"{100 * value:{sign}.2f}"
    return f"{value:{sign}.4f}" if abs(value) < 1e3 else f"{value:{sign},.0f}"


def _score(metric: str, cell: Cell) -> str:
    text = _plain(metric, cell.sample.mean)
    if cell.sample.half_width is not None:
        text += f" ± {_plain(metric, cell.sample.half_width)}"
    return f"{text} {_MARKS.get(cell.rank, '')}".rstrip()


def _difference(metric: str, cell: Cell, row: Row) -> str:
    if row.baseline == row.settings:
        return "baseline"
    if cell.against is None or not cell.against.pairs:
        return "-"
    gap = cell.against.differences
    text = _plain(metric, gap.mean, "+")
    return text if gap.half_width is None else f"{text} ± {_plain(metric, gap.half_width)}"


def _markdown(text: str) -> str:
    escaped = text.replace("|", r"\|").replace("*", r"\*").replace("_", r"\_")
    return escaped.replace("~", r"\~").replace("<", "&lt;")


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)
