"""Formats a comparison: a grid of cells, Markdown, LaTeX, CSV, JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ffalora_cli.metric_keys import short_name
from ffalora_cli.privacy.rounding import epsilon_text
from ffalora_cli.report.figures.style import byte_unit, csv_text
from ffalora_cli.report.runs.settings import title
from ffalora_cli.report.runs.statistics import Sample
from ffalora_cli.report.table.notes import BEST, TIED, baseline_name, notes
from ffalora_cli.report.table.rows import Cell, Comparison, Row
from ffalora_cli.tasks.registry import is_percent

SCHEMA_VERSION = 1
_MARKS = {"best": BEST, "tied": TIED}
_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "<": r"\textless{}", ">": r"\textgreater{}", "*": r"\textasteriskcentered{}",
})  # fmt: skip
_MARKDOWN = str.maketrans({"|": r"\|", "*": r"\*", "_": r"\_", "~": r"\~", "<": "&lt;"})


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
    rows, words = comparison.rows, len(comparison.columns)
    factor, unit = byte_unit(max((row.uplink_bytes for row in rows), default=0.0))
    columns = [
        (title(key).replace("_", " "), [_worded(row.settings[i]) for row in rows])
        for i, key in enumerate(comparison.columns)
    ]
    for i, metric in enumerate(comparison.metrics):
        cells = [row.cells[i] for row in rows]
        name = short_name(metric)
        columns += [
            (f"{name} %" if is_percent(metric) else name, [_score(metric, c) for c in cells]),
            ("sd", [_plain(metric, cell.sample.sd) for cell in cells]),
            (f"vs {baseline_name(comparison)}", [_difference(metric, i, row) for row in rows]),
        ]
    columns += [
        ("n", [str(len(row.runs)) for row in rows]),
        ("epsilon", [epsilon_text(row.epsilon) for row in rows]),
        (f"up {unit}", [f"{row.uplink_bytes / factor:.2f}" for row in rows]),
    ]
    kept = columns[:words]  # what was asked for stays, whatever it holds
    kept += [own for own in columns[words:] if not {"-", "baseline"}.issuperset(own[1])]
    head, texts = zip(*kept, strict=True)
    return Grid(head, tuple(zip(*texts, strict=True)), words, tuple(notes(comparison)))


def markdown(table: Grid) -> str:
    """A GitHub table with its notes as a list."""
    rules = [":--" if i < table.words else "--:" for i in range(len(table.head))]
    lines = [table.head, rules, *table.rows]
    text = [f"| {' | '.join(cell.translate(_MARKDOWN) for cell in line)} |" for line in lines]
    return "\n".join([*text, "", *(f"- {note.translate(_MARKDOWN)}" for note in table.notes)])


def latex(table: Grid) -> str:
    """A booktabs table; it needs the package booktabs and nothing else."""
    align = "l" * table.words + "r" * (len(table.head) - table.words)
    lines = [" & ".join(cell.translate(_LATEX) for cell in line) + r" \\" for line in table.rows]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{{align}}}",
            r"\toprule",
            " & ".join(cell.translate(_LATEX) for cell in table.head) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\par\medskip\raggedright\footnotesize",
            *(f"{note.translate(_LATEX)}.\\par" for note in table.notes),
            r"\end{table}",
        ]
    )


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
        line |= {"baseline": "/".join(row.baseline or ()), "epsilon": row.epsilon}
        line |= {"uplink_bytes": row.uplink_bytes, "runs": " ".join(r.path.name for r in row.runs)}
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
            "notes": notes(comparison),
        }
    )


def strict_json(content: Mapping[str, Any]) -> str:
    """What programs read, under the version that counts changes of its keys."""
    versioned = {"schema_version": SCHEMA_VERSION, **content}
    return json.dumps(versioned, indent=2, ensure_ascii=False, allow_nan=False)


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
    return f"{_spread(metric, cell.sample)} {_MARKS.get(cell.rank, '')}".rstrip()


def _spread(metric: str, sample: Sample, sign: str = "") -> str:
    text = _plain(metric, sample.mean, sign)
    if sample.half_width is not None:
        text += f" ± {_plain(metric, sample.half_width)}"
    return text


def _difference(metric: str, column: int, row: Row) -> str:
    if row.baseline == row.settings:
        return "baseline"
    gap = row.cells[column].gap
    return "-" if gap is None else _spread(metric, gap, "+")
