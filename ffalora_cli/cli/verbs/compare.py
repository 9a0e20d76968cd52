"""``ffalora compare``: runs side by side, from their local records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ffalora_cli.cli.arguments import Parser, words_of
from ffalora_cli.cli.exits import DONE
from ffalora_cli.cli.screen.words import left_out
from ffalora_cli.config.errors import ConfigError, brief, choose

if TYPE_CHECKING:
    import argparse

    from ffalora_cli.records.reading import RunRecords
    from ffalora_cli.report.names import Names
    from ffalora_cli.report.table.formats import Grid
    from ffalora_cli.report.table.rows import Question

FORMATS = ("table", "md", "csv", "json", "latex")
_EXAMPLES = """\
RUNS are folders, globs, beginnings of names or signatures, and conditions: experiment=NAME,
tag=NAME, method=NAME, any key=value. Places add up, conditions narrow. None: all finished runs.

examples:
  ffalora compare                                          everything in runs/
  ffalora compare task=sst2 --by method,privacy.epsilon_target
  ffalora compare experiment=table1 --published            beside the paper's numbers
  ffalora compare 'runs/sst2-*' --metric accuracy,loss --at round=20
  ffalora compare --at accuracy=0.8                        rounds, bytes, epsilon, time to it
  ffalora compare --pivot method:partition.dirichlet_alpha --format latex --label tab:main
  ffalora compare --from wandb ENTITY/PROJECT task=sst2    the same from logged runs"""


def main(arguments: Sequence[str]) -> int:
    """Print a comparison."""
    options = _parser().read(arguments)
    from ffalora_cli.report.table import pivot, side_by_side
    from ffalora_cli.report.table.compare import compare

    if options.format not in FORMATS:
        raise choose("--format", options.format, FORMATS)
    runs = _runs(options)
    question = _question(options, runs)
    if options.published:
        _published(runs, question, options)
        return DONE
    comparison = compare(runs, question)
    view = pivot if options.pivot else side_by_side
    if options.format == "json":
        print(side_by_side.as_json(comparison))
    elif options.format == "csv":
        print(view.as_csv(comparison))
    else:
        _print(view.grid(comparison), options)
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
        "--at", default="final", help="final, best-validation, round=10, bytes=10MB, accuracy=0.8"
    )
    parser.add_argument("--baseline", default="", help="key=value,...: what a row is compared with")
    parser.add_argument(
        "--pivot", default="", metavar="ROWS:COLUMNS", help="keys down and keys across: method:task"
    )
    parser.add_argument("--best", default="column", help="of a pivot: of each column, or row")
    parser.add_argument(
        "--interval", action="store_true", help="mean ± 95 %% interval where else ± is the sd"
    )
    parser.add_argument("--names", default="paper", help="paper, raw, or VALUE=NAME,...")
    parser.add_argument("--caption", default="", help="of the table")
    parser.add_argument("--label", default="", help="of a LaTeX table: tab:main")
    parser.add_argument("--no-notes", action="store_true", help="without the lines below it")
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


def _question(options: argparse.Namespace, runs: Sequence[RunRecords]) -> Question:
    from ffalora_cli.report.runs.moments import parse
    from ffalora_cli.report.table.pivot import axes
    from ffalora_cli.report.table.rows import Question

    if options.best not in ("column", "row"):
        raise choose("--best", options.best, ("column", "row"))
    if options.pivot and (options.by or options.published):
        other = "--by" if options.by else "--published"
        raise ConfigError(f"--pivot says what makes rows and columns; leave {other} out")
    down, across = axes(options.pivot) if options.pivot else ((), ())
    point = parse(options.at, runs)
    reach = point.kind == "reach"
    if reach and options.published:
        raise ConfigError(f"--published has scores, and --at {point} rounds; leave one out")
    baseline = _pairs(options.baseline, "--baseline", "method=lora")
    return Question(
        by=(*down, *across) or words_of(options.by),
        over=options.over,
        metrics=words_of(options.metric) or (("round",) if reach and across else ()),
        point=point,
        baseline=baseline,
        anyway=options.anyway,
        across=across,
        best_of=options.best,
        interval=options.interval or not (across or reach),
        names=_names(options),
    )


def _names(options: argparse.Namespace) -> Names:
    """How values are written, and the order in which they were typed."""
    from ffalora_cli.report.names import Names
    from ffalora_cli.report.runs.selection import typed_lists

    typed = typed_lists(options.runs_named)
    if options.names in ("paper", "raw"):
        return Names(options.names == "raw", typed=typed)
    own = dict(_pairs(options.names, "--names", "my_method=Ours, paper or raw"))
    return Names(own=own, typed=typed)


def _pairs(text: str, option: str, example: str) -> tuple[tuple[str, str], ...]:
    """``key=value,...``, taken apart.

    Raises:
        ConfigError: for a word without a value.
    """
    found = []
    for word in words_of(text):
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"{option} {brief(word)} has no value; write {option} {example}")
        found.append((key, value))
    return tuple(found)


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
        _print(beside.with_published(table, ours, runs, question), options)


def _print(grid: Grid, options: argparse.Namespace) -> None:
    from ffalora_cli.cli.screen.grid import print_grid

    grid = replace(grid, notes=(), legend={}) if options.no_notes else grid
    print_grid(grid, options.format, options.caption, options.label)
