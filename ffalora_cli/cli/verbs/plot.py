"""``ffalora plot``: pictures of runs, with their numbers beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ffalora_cli.cli.arguments import Parser, words_of
from ffalora_cli.cli.exits import DONE
from ffalora_cli.cli.screen.words import labelled, left_out
from ffalora_cli.config.errors import ConfigError, counted

if TYPE_CHECKING:
    import argparse

    from ffalora_cli.records.reading import RunRecords
    from ffalora_cli.report.figures.style import Picture

_KINDS = ("curves", "pareto", "partition", "clients", "mechanism")
_X = ("round", "uplink_bytes", "total_bytes", "epsilon", "seconds")
_WIDTH = "column (3.25 inches, the default), page (6.75) or inches, at which letters have 8 points"
_EXAMPLES = """\
examples:
  ffalora plot runs --x uplink_bytes -o accuracy.pdf --width column
  ffalora plot method=lora,ffa_lora --by method --x epsilon
  ffalora plot runs --kind pareto
  ffalora plot bbc_news-lora --kind partition

RUNS are folders, globs, beginnings of names or signatures (any of them) and
key=value conditions (all of them); none: all finished runs."""


def main(arguments: Sequence[str]) -> int:
    """Draw, save as PNG, SVG, PDF and CSV, and say where."""
    parser = Parser("plot", "Draw runs: mean and spread over seeds.", _EXAMPLES)
    parser.add_argument("selectors", nargs="*", metavar="RUNS", help="which runs; see below")
    parser.add_argument("--kind", choices=_KINDS, default="curves", help="default: curves")
    parser.add_argument("--x", choices=_X, help="of curves (default: round) and pareto")
    parser.add_argument("--y", help="metric (default: the task's first)")
    parser.add_argument("--by", help="keys that make the lines, as in method,federation.rounds")
    parser.add_argument("--over", default="seed", help="key averaged over (default: seed)")
    parser.add_argument("--width", default="column", help=_WIDTH)
    parser.add_argument("--runs", default="runs", help="folder of all runs (default: runs)")
    parser.add_argument("-o", "--output", help="file to write (default: KIND.png)")
    options = parser.read(arguments)
    from ffalora_cli.report.figures.files import save
    from ffalora_cli.report.figures.style import styled
    from ffalora_cli.report.runs.selection import select_runs

    runs = select_runs(options.runs, options.selectors, left_out)
    output = Path(options.output or f"{options.kind}.png").expanduser()
    with styled(width=_inches(options.width)):
        picture = _picture(options, runs)
        files = save(picture, output)
    for line in labelled("shows", picture.words):
        print(line)
    for note in picture.notes:
        print("\n".join(labelled("note", note)))
    print("\n".join(labelled("files", ", ".join(str(file) for file in files))))
    return DONE


def _inches(words: str) -> float:
    """The width that was asked for.

    Raises:
        ConfigError: neither a name nor a width that a page has.
    """
    from ffalora_cli.report.figures.style import COLUMN, PAGE

    try:
        inches = {"column": COLUMN, "page": PAGE}.get(words) or float(words)
    except ValueError:
        inches = 0.0
    if not 2 <= inches <= 20:
        raise ConfigError(f"--width {words}: column, page, or 2 to 20 inches as in --width 5.5")
    return inches


def _picture(options: argparse.Namespace, runs: Sequence[RunRecords]) -> Picture:
    from ffalora_cli.report.figures import clients, curves, mechanism, pareto
    from ffalora_cli.report.figures.series import group_runs
    from ffalora_cli.report.names import Names
    from ffalora_cli.report.runs.selection import typed_lists

    if options.kind == "partition":
        return _partition(runs)
    by = words_of(options.by or "")
    unlabelled = "privacy" if options.kind == "pareto" else "-"  # epsilon has its own place there
    names = Names(typed=typed_lists(options.selectors))
    grouping = group_runs(runs, by, options.over, unlabelled, names)
    if options.kind == "clients":
        return clients.draw(grouping, options.y or "")
    if options.kind == "mechanism":
        return mechanism.draw(grouping)
    metric = options.y or common_headline(runs)
    if options.kind == "pareto":
        return pareto.draw(grouping, options.x or "uplink_bytes", metric)
    return curves.draw(grouping, options.x or "round", metric)


def _partition(runs: Sequence[RunRecords]) -> Picture:
    """Draw the labels of each client of one run, made again from its configuration.

    Raises:
        ConfigError: several runs of different partitions, or data that is no longer the same.
    """
    from ffalora_cli.config.build import build
    from ffalora_cli.experiment import client_table
    from ffalora_cli.report.figures.partition import compose
    from ffalora_cli.report.figures.style import Picture

    run = runs[0]
    sizes = {tuple(other.manifest.get("client_sizes") or ()) for other in runs}
    if len(sizes) > 1:
        raise ConfigError(
            f"--kind partition: {counted(len(runs), 'run')} have {len(sizes)}; name one run"
        )
    config = build(run.config)
    found = client_table(config)
    table, classes, rows = found.counts, found.strata, found.sizes
    recorded = run.manifest.get("client_sizes")
    if recorded and list(recorded) != rows.tolist():
        raise ConfigError(
            f"{run.path.name}: its clients had {recorded[:3]}... rows, the data here gives "
            f"{rows.tolist()[:3]}...; use the data it was trained on (paths.data)"
        )
    numbers = [
        {"client": client, "rows": int(rows[client])}
        | {name: int(n) for name, n in zip(classes, counts, strict=True)}
        for client, counts in enumerate(table)
    ]
    scheme = config.partition.label_mix or config.partition.name
    words = f"rows of each label at each client: {config.task.name}, {scheme}, seed "
    note = "label counts are no part of a privacy guarantee"
    private = config.privacy.unit != "none"
    return Picture(
        compose(table, classes),
        f"{words}{config.partition.seed}",
        numbers,
        (note,) if private else (),
    )


def common_headline(runs: Sequence[RunRecords]) -> str:
    """The metric by which the runs are judged: their task's first.

    Raises:
        ConfigError: when tasks differ in it.
    """
    from ffalora_cli.report.runs.moments import headline

    names = sorted({headline(run) for run in runs})
    if len(names) > 1:
        raise ConfigError(f"--y: these runs are judged by {', '.join(names)}; choose one")
    return names[0]
