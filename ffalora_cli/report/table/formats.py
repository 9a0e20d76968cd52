"""Formats a table of text as Markdown, LaTeX or CSV; screens have ``cli/screen/grid.py``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ffalora_cli.config.errors import ConfigError, brief
from ffalora_cli.report.csv_text import csv_text

SCHEMA_VERSION = 1
BEST, TIED = "best", "tied"
ABSENT = "-"
_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "|": r"\textbar{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "*": r"\textasteriskcentered{}",
    "[": "{[}",  # after a line's end it would open an argument
    "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "≤": r"$\le$", "≥": r"$\ge$", "∞": r"$\infty$",
    "α": r"$\alpha$", "β": r"$\beta$", "δ": r"$\delta$", "ε": r"$\varepsilon$",
    "σ": r"$\sigma$", "τ": r"$\tau$", "–": "--", "—": "---", "…": r"\dots{}",
})  # fmt: skip
_COLUMN = 4  # columns of a table that fits beside another column of text
_MARKDOWN = str.maketrans({
    "|": r"\|", "*": r"\*", "_": r"\_", "~": r"\~", "[": r"\[", "$": r"\$", "`": r"\`",
    "\\": "\\\\", "<": "&lt;", "&": "&amp;",
})  # fmt: skip
_LATEX_MARKS = {BEST: r"\textbf{%s}", TIED: r"\underline{%s}"}
_MARKDOWN_MARKS = {BEST: "**%s**", TIED: "<u>%s</u>"}
_TEXT_MARKS = {BEST: "%s *", TIED: "%s ~"}


@dataclass(frozen=True)
class Grid:
    """A table of text.

    Attributes:
        head: titles, one a column.
        rows: cells, as long as the head.
        words: how many columns from the left are words; the rest are numbers.
        notes: below it.
        marks: standing of cells by (row, column): ``best``, or ``tied`` with it.
        legend: what a standing means, for those that there are.
        spans: lines of (title, columns) above the head for LaTeX, which can span columns; with
            any, ``under`` is its head.
        under: short titles below ``spans``.
        spare: how many columns from the right a narrow screen may do without.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int
    notes: tuple[str, ...] = ()
    marks: Mapping[tuple[int, int], str] = field(default_factory=dict)
    legend: Mapping[str, str] = field(default_factory=dict)
    spans: tuple[tuple[tuple[str, int], ...], ...] = ()
    under: tuple[str, ...] = ()
    spare: int = 0


def text(table: Grid) -> Grid:
    """The table for a screen or a page: ``*`` and ``~`` in its cells, what they mean first."""
    head = tuple(_escaped(title, {}) for title in table.head)
    rows = tuple(tuple(row) for row in _marked(table, _TEXT_MARKS))
    notes = tuple(_escaped(note, {}) for note in _notes(table, {BEST: "*", TIED: "~"}))
    return replace(table, head=head, rows=rows, notes=notes, legend={})


def markdown(table: Grid, caption: str = "") -> str:
    """A GitHub table, caption above and notes as a list below."""
    rules = [":--" if i < table.words else "--:" for i in range(len(table.head))]
    head = [_escaped(cell, _MARKDOWN) for cell in table.head]
    rows = _marked(table, _MARKDOWN_MARKS, _MARKDOWN)
    lines = [f"| {' | '.join(line)} |" for line in (head, rules, *rows)]
    notes = _notes(table, {BEST: "bold", TIED: "underlined"})
    below = ["", *(f"- {_escaped(note, _MARKDOWN)}" for note in notes)] if notes else []
    return "\n".join([*([f"{caption}\n"] if caption else []), *lines, *below])


def narrowed(table: Grid) -> Grid:
    """The table without the columns that it can do without, and without what is said of them."""
    kept = len(table.head) - table.spare
    left_out = tuple(f"{title}:" for title in table.head[kept:])
    rows = tuple(row[:kept] for row in table.rows)
    notes = tuple(note for note in table.notes if not note.startswith(left_out))
    return replace(table, head=table.head[:kept], rows=rows, notes=notes, spare=0)


def latex(table: Grid, caption: str = "", label: str = "") -> str:
    """A booktabs table that needs the package booktabs and nothing else.

    One of many columns is set smaller and, where a page has two columns of text, across both.

    Args:
        table: of text; Greek letters, minus and plus-minus signs become math.
        caption: as LaTeX has it, so that it may hold commands.
        label: of the table, as it is referred to.

    Raises:
        ConfigError: a caption or label that would end its command.
    """
    _check_latex("--caption", caption)
    _check_latex("--label", label, "{}#~")
    table = narrowed(table)
    align = "l" * table.words + "r" * (len(table.head) - table.words)
    rows = _marked(table, _LATEX_MARKS, _LATEX)
    body = [["--" if cell == ABSENT else cell for cell in row] for row in rows]
    notes = _notes(table, {BEST: "bold", TIED: "underlined"})
    wide = len(table.head) > _COLUMN
    place = "table*" if wide else "table"
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            rf"\begin{{{place}}}",
            r"\centering",
            *([r"\small\setlength{\tabcolsep}{4pt}"] if wide else []),
            *([rf"\caption{{{caption}}}"] if caption else []),
            *([rf"\label{{{label}}}"] if label else []),
            rf"\begin{{tabular}}{{{align}}}",
            r"\toprule",
            *_latex_head(table),
            r"\midrule",
            *(" & ".join(row) + r" \\" for row in body),
            r"\bottomrule",
            r"\end{tabular}",
            *([r"\par\medskip\raggedright\footnotesize"] if notes else []),
            *(f"{_escaped(note, _LATEX)}.\\par" for note in notes),
            rf"\end{{{place}}}",
        ]
    )


def csv(table: Grid) -> str:
    """Head and cells as they are, without marks and notes; titles must differ."""
    rows = [dict(zip(table.head, row, strict=True)) for row in table.rows]
    return csv_text(rows, table.head).rstrip("\n")


def strict_json(content: Mapping[str, Any]) -> str:
    """What programs read, under the version that counts changes of its keys."""
    versioned = {"schema_version": SCHEMA_VERSION, **content}
    return json.dumps(versioned, indent=2, ensure_ascii=False, allow_nan=False)


def true_minus(text: str) -> str:
    """A number with a minus sign instead of a hyphen."""
    return text.replace("-", "−") if text[:1] == "-" and len(text) > 1 else text


def _escaped(text: str, signs: Mapping[int, str]) -> str:
    """A text in one line of what can be seen: nothing in a name steers a terminal or ends a row."""
    return "".join(sign if sign.isprintable() else " " for sign in text).translate(signs)


def _check_latex(option: str, text: str, but: str = "") -> None:
    """Refuse what would end the command that it stands in.

    Raises:
        ConfigError: braces that do not pair, or a letter of ``but`` without a backslash.
    """
    bare, depth = re.sub(r"\\.", "", text), 0
    for letter in bare:
        depth += (letter == "{") - (letter == "}")
        if depth < 0:
            break
    wrong = next((letter for letter in "%\n\\" + but if letter in bare), "")
    if depth or wrong:
        what = f"holds {brief(wrong)}" if wrong else "has braces that do not pair"
        raise ConfigError(f"{option} {brief(text)} {what}, which ends it in LaTeX; leave it out")


def _latex_head(table: Grid) -> list[str]:
    """Titles; above them, where there are any, those that span several columns."""
    lines = []
    for line in table.spans:
        cells, rules, at = [], "", 1
        for title, span in line:
            shown = _escaped(title, _LATEX)
            cells.append(
                rf"\multicolumn{{{span}}}{{c}}{{{shown}}}" if title else " & " * (span - 1)
            )
            rules += rf"\cmidrule(lr){{{at}-{at + span - 1}}}" if title else ""
            at += span
        lines += [" & ".join(cells) + r" \\", rules]
    titles = table.under if table.spans else table.head
    return [*lines, " & ".join(_escaped(title, _LATEX) for title in titles) + r" \\"]


def _marked(
    table: Grid, marks: Mapping[str, str], escaped: Mapping[int, str] | None = None
) -> list[list[str]]:
    """Cells, escaped, then in the marks of their standing."""
    return [
        [
            marks.get(table.marks.get((i, j), ""), "%s") % _escaped(cell, escaped or {})
            for j, cell in enumerate(row)
        ]
        for i, row in enumerate(table.rows)
    ]


def _notes(table: Grid, signs: Mapping[str, str]) -> list[str]:
    legend = "; ".join(f"{signs[standing]}: {words}" for standing, words in table.legend.items())
    return [*([legend] if legend else []), *table.notes]
