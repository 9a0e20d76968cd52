"""``ffalora report``: one page about runs, or a report in W&B."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ffalora_cli.cli.arguments import Parser, file_to_write, words_of
from ffalora_cli.cli.exits import DONE
from ffalora_cli.cli.screen.words import left_out
from ffalora_cli.config.errors import ConfigError, counted
from ffalora_cli.metric_keys import evaluated

if TYPE_CHECKING:
    import argparse

_EXAMPLES = """\
examples:
  ffalora report runs -o report.html
  ffalora report task=bbc_news --by method,privacy.epsilon_target
  ffalora report --wandb ENTITY/PROJECT method=lora,ffa_lora --by method

RUNS are folders, globs, beginnings of names or signatures (any of them) and
key=value conditions (all of them; the only ones with --wandb); none: all
finished runs."""


def main(arguments: Sequence[str]) -> int:
    """Write the page, or save the report, and say where."""
    parser = Parser("report", "Write one self-contained page about runs.", _EXAMPLES)
    parser.add_argument("selectors", nargs="*", metavar="RUNS", help="which runs; see below")
    parser.add_argument("-o", "--output", default="report.html", help="default: report.html")
    parser.add_argument("--by", default="", help="keys that make rows and lines")
    parser.add_argument("--over", default="seed", help="key averaged over (default: seed)")
    parser.add_argument("--metric", default="", help="default: the task's (--wandb: accuracy)")
    parser.add_argument("--anyway", action="store_true", help="compare other tasks or rows, too")
    parser.add_argument("--runs", default="runs", help="folder of all runs (default: runs)")
    parser.add_argument("--wandb", metavar="ENTITY/PROJECT", help="save a report in W&B instead")
    options = parser.read(arguments)
    if options.wandb:
        print(f"report    {_in_wandb(options)}")
        return DONE
    named = Path(options.output)
    if named.suffix not in (".html", ".htm"):
        raise ConfigError(f"-o {named.name}: a report is a page; try {named.stem}.html")
    output = file_to_write("-o", options.output)
    from ffalora_cli.records.files import write_whole
    from ffalora_cli.report.page.page import page
    from ffalora_cli.report.runs.selection import select_runs
    from ffalora_cli.report.table.rows import Question

    runs = select_runs(options.runs, options.selectors, left_out)
    by, metrics = words_of(options.by), words_of(options.metric)
    question = Question(by=by, over=options.over, metrics=metrics, anyway=options.anyway)
    text = page(runs, question)
    try:
        write_whole(output, text.encode())
    except OSError as error:
        raise ConfigError(f"-o {output}: cannot be written ({error.strerror})") from error
    what = f"{counted(len(runs), 'run')}, {len(text) / 1000:.0f} kB, no network needed"
    print(f"report    {output} ({what})")
    return DONE


def _in_wandb(options: argparse.Namespace) -> str:
    """Save a report beside the logged runs; its address.

    Raises:
        ConfigError: a project that is not ENTITY/PROJECT, a run or key that W&B does not know, or a
            part that is not installed.
    """
    entity, slash, name = options.wandb.partition("/")
    if not (slash and entity and name) or "/" in name:
        raise ConfigError(f"--wandb {options.wandb}: write ENTITY/PROJECT, as W&B's address has it")
    from ffalora_cli.report.runs.selection import dotted_keys, filters
    from ffalora_cli.report.wandb.saved import build_report, save_report

    metrics = words_of(options.metric) or ["accuracy"]
    scores = [metric if "/" in metric else evaluated(metric) for metric in metrics]
    by = dotted_keys(words_of(options.by) or ["method"])
    return save_report(build_report(entity, name, scores, by, filters(options.selectors)))
