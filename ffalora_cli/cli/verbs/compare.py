"""``ffalora compare``: runs side by side, from their local records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ffalora_cli.cli.arguments import Parser
from ffalora_cli.cli.exits import DONE
from ffalora_cli.cli.screen.words import left_out
from ffalora_cli.config.errors import ConfigError, brief, choose

if TYPE_CHECKING:
    import argparse

    from rich.table import Table

    from ffalora_cli.records.reading import RunRecords
    from ffalora_cli.report.table.formats import Grid
    from ffalora_cli.report.table.rows import Question

FORMATS = ("table", "md", "csv", "json", "latex")
_PIPED = 1000  # columns where there is no terminal: nothing is folded
_EXAMPLES = """\
RUNS are folders, globs, beginnings of names or signatures, and conditions: experiment=NAME,
tag=NAME, method=NAME, any key=value. Places add up, conditions narrow. None: all finished runs.

examples:
  ffalora compare                                          everything in runs/
  ffalora compare task=sst2 --by method,privacy.epsilon_target
  ffalora compare experiment=table1 --published            beside the paper's numbers
  ffalora compare 'runs/sst2-*' --metric accuracy,loss --at round=20
  ffalora compare method=lora,ffa_lora --at bytes=10MB --format latex
  ffalora compare --from wandb ENTITY/PROJECT task=sst2    the same from logged runs"""


def main(arguments: Sequence[str]) -> int:
    """Print a comparison."""
    from ffalora_cli.report.table import formats
    from ffalora_cli.report.table.compare import compare

    options = _parser().read(arguments)
    if options.format not in FORMATS:
        raise choose("--format", options.format, FORMATS)
    runs = _runs(options)
    question = _question(options)
    if options.published:
        _published(runs, question, options)
        return DONE
    comparison = compare(runs, question)
    if options.format in ("csv", "json"):
        print({"csv": formats.as_csv, "json": formats.as_json}[options.format](comparison))
    else:
        _print(formats.grid(comparison), options.format)
    return DONE


def _parser() -> Parser:
    parser = Parser("compare", "Put runs side by side, from their local records.", _EXAMPLES)
    parser.add_argument("runs_named", nargs="*", metavar="RUNS", help="which runs; see below")
    parser.add_argument("--by", default="", help="keys that make rows (default: those that differ)")
    parser.add_argument("--over", default="seed", help="key to average over (default: seed)")
    parser.add_argument(
        "--metric", default="", help="accuracy, eval/loss, ... (default: the task's)"
    )
    parser.add_argument(
        "--at", default="final", help="final, best-validation, round=N or bytes=X (uplink)"
    )
    parser.add_argument("--baseline", default="", help="key=value,...: what a row is compared with")
    parser.add_argument("--format", default="table", help=", ".join(FORMATS))
    parser.add_argument("--runs", default="runs", help="folder of all runs (default: runs)")
    parser.add_argument("--anyway", action="store_true", help="compare other tasks or rows, too")
    parser.add_argument(
        "--published", action="store_true", help="of experiment=NAME: beside the paper's numbers"
    )
    parser.add_argument(
        "--from", dest="source", metavar="SOURCE", help="wandb: the first of RUNS is ENTITY/PROJECT"
    )
    return parser


def _question(options: argparse.Namespace) -> Question:
    from ffalora_cli.report.runs.moments import parse
    from ffalora_cli.report.table.rows import Question

    baseline = []
    for text in _words(options.baseline):
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(
                f"--baseline {brief(text)} is no setting; write --baseline method=lora"
            )
        baseline.append((key, value))
    return Question(
        by=_words(options.by),
        over=options.over,
        metrics=_words(options.metric),
        point=parse(options.at),
        baseline=tuple(baseline),
        anyway=options.anyway,
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _runs(options: argparse.Namespace) -> list[RunRecords]:
    """The runs that were named; logged ones where a tracker is asked."""
    from ffalora_cli.report.runs.selection import filters, select_runs

    if options.source is None:
        if not options.published:
            return select_runs(options.runs, options.runs_named, left_out)
        return _runs_of_table(options)
    if options.source != "wandb":
        raise choose("--from", options.source, ("wandb",))
    if not options.runs_named or "/" not in options.runs_named[0]:
        raise ConfigError("--from wandb: say which project, as in --from wandb ENTITY/PROJECT")
    asked = filters(options.runs_named[1:])
    from ffalora_cli.report.wandb.runs import fetch

    return fetch(options.runs_named[0], asked)


def _runs_of_table(options: argparse.Namespace) -> list[RunRecords]:
    """The runs of a table of the paper; none at all is an answer, too."""
    from ffalora_cli.records.reading import find_runs
    from ffalora_cli.report.runs.selection import select_runs

    if not find_runs(options.runs):
        return []
    try:
        return select_runs(options.runs, options.runs_named, left_out)
    except ConfigError as error:
        named = [text for text in options.runs_named if text.startswith("experiment=")]
        if named and str(error).startswith(named[0]):
            return []
        raise


def _published(runs: list[RunRecords], question: Question, options: argparse.Namespace) -> None:
    """Our runs beside the paper's table, which ``experiment=`` names."""
    from ffalora_cli.report.table import beside

    named = [t.removeprefix("experiment=") for t in options.runs_named if t[:11] == "experiment="]
    if len(named) != 1:
        raise ConfigError("--published: say which table, as in experiment=table1 --published")
    table = beside.table_named(named[0])
    ours = beside.our_numbers(runs, table, question)
    if options.format == "csv":
        print(beside.as_csv(table, ours))
    elif options.format == "json":
        print(beside.as_json(table, ours, runs, question))
    else:
        _print(beside.with_published(table, ours, runs, question), options.format)


def _print(grid: Grid, format: str) -> None:
    from ffalora_cli.report.table import formats

    if format != "table":
        print({"md": formats.markdown, "latex": formats.latex}[format](grid))
        return
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False, emoji=False, markup=False)
    if not console.is_terminal:
        console = Console(width=_PIPED, highlight=False, emoji=False, no_color=True, markup=False)
    if _least_width(grid) <= console.width:
        console.print(_rich(grid))
    else:
        console.print("\n\n".join(_listed(grid)), soft_wrap=True)
    for note in grid.notes:
        console.print(note, style="dim")


def _rich(grid: Grid) -> Table:
    """No frames: it is read in terminals of any colour, and pasted into mails.

    Words give way on a narrow screen, at their blanks; numbers never do.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column, (title, width) in enumerate(zip(grid.head, _widths(grid), strict=True)):
        number = column >= grid.words
        table.add_column(title, justify="right" if number else "left", min_width=width)
    for row in grid.rows:
        table.add_row(*(Text(cell, "bold" if cell.endswith("*") else "") for cell in row))
    return table


def _widths(grid: Grid) -> list[int]:
    """Columns that cells need: numbers all of theirs, words the longest; titles break anywhere."""
    return [
        max(
            len(piece)
            for row in (*grid.rows, [""] * len(grid.head))
            for piece in ([row[column]] if column >= grid.words else row[column].split() or [""])
        )
        for column in range(len(grid.head))
    ]


def _least_width(grid: Grid) -> int:
    return sum(_widths(grid)) + len(grid.head)


def _listed(grid: Grid) -> list[str]:
    """A row as lines of title and cell, for a screen that is too narrow for the table."""
    room = max(map(len, grid.head)) + 2
    return [
        "\n".join(title.ljust(room) + cell for title, cell in zip(grid.head, row, strict=True))
        for row in grid.rows
    ]
