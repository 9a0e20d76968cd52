"""``ffalora tune``: rates, clips, momenta chosen for each method by itself, then run over seeds."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ffalora_cli.cli.arguments import OVERRIDES, Parser, words_of
from ffalora_cli.cli.batches import Batches
from ffalora_cli.cli.done import check_inputs
from ffalora_cli.cli.exits import DONE, FAILED, PARTLY_DONE
from ffalora_cli.cli.screen.grid import print_grid
from ffalora_cli.cli.screen.sweep_display import open_sweep_display
from ffalora_cli.cli.screen.words import labelled
from ffalora_cli.cli.signals import stop_on_signals
from ffalora_cli.cli.sweep_end import Sweeping, exit_code, stop_if_asked
from ffalora_cli.cli.tuning import words
from ffalora_cli.cli.tuning.asked import Asked, names, read
from ffalora_cli.cli.tuning.price import price
from ffalora_cli.cli.tuning.stages import SAID, Tune
from ffalora_cli.cli.verbs.plan import forecasts
from ffalora_cli.compose.hydra_keys import take
from ffalora_cli.config.errors import ConfigError, brief
from ffalora_cli.config.job import Job
from ffalora_cli.config.signature import digest
from ffalora_cli.records.files import write_whole
from ffalora_cli.records.reading import read_run
from ffalora_cli.records.run_directory import SUMMARY, run_folder
from ffalora_cli.report.csv_text import csv_text
from ffalora_cli.report.table import formats, side_by_side
from ffalora_cli.report.table.compare import compare
from ffalora_cli.report.table.rows import Question
from ffalora_cli.sweep.launchers.base import open_launcher, waits
from ffalora_cli.sweep.record import SweepRecord
from ffalora_cli.sweep.search import Settings
from ffalora_cli.sweep.search import read as read_optuna

_EXAMPLES = """\
Keys of rates, clip, momentum and schedule with several values are tuned, any other key with several
values (method, a budget, a partition) is compared: each of its values is tuned by itself, on
held-out tuning rows and a seed that is not reported. Then the chosen settings run over the seeds.

examples:
  ffalora tune experiment=quickstart method=lora,ffa_lora seed=0,1,2
  ffalora tune method=lora,ffa_lora federation.local_lr=0.4,1.3,4,13 privacy.max_grad_norm=0.2,0.5
  ffalora tune method=lora,ffa_lora --keys federation.local_lr,adapter.alpha --refine 2
  ffalora tune hydra/sweeper=optuna 'federation.local_lr=tag(log,interval(0.1,20))'

Nothing to tune given: federation.local_lr, at what is recommended and root ten below and above.
What is done is not repeated; the same command goes on. Files and price: docs/sweeps.md."""


def main(arguments: Sequence[str]) -> int:
    """Tune, then run what was chosen."""
    options = _parser().read(arguments)
    rest, about = take(options.overrides, sweep=True)
    searched = None
    if about.sweeper == "optuna":
        searched = read_optuna(about.sweeper_settings)
        if "direction" in about.sweeper_settings:
            raise ConfigError("hydra.sweeper.direction follows the metric here; leave it out")
    if options.refine < 0:
        raise ConfigError(f"--refine {options.refine} should be 0 (the grid alone) or more")
    trials = searched.n_trials if searched else None
    asked = read(
        rest, words_of(options.keys), words_of(options.tuning_seeds), options.refine, trials
    )
    if searched:
        searched = replace(searched, direction="maximize" if asked.higher else "minimize")
    known, files = _known_jobs(asked), _files(asked, options.save)
    if waits(about.launcher):
        check_inputs(known)
    if options.dry_run or not options.quiet:
        _say_plan(asked, known, measured=not options.no_measure)
    if options.dry_run:
        return DONE
    with stop_on_signals() as stop:
        launch = open_launcher(about.launcher, about.launcher_settings)
        command = ["ffalora", "tune", *arguments]
        sweeping = Sweeping(about, launch, command, options.quiet, False, stop)
        return _play(asked, searched, sweeping, known[0], files)


def _parser() -> Parser:
    parser = Parser("tune", "Choose settings for each method by itself, then run them.", _EXAMPLES)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=OVERRIDES)
    parser.add_argument(
        "--keys",
        default="",
        help="further keys to tune, A,B; without values: about the recommended",
    )
    parser.add_argument("--tuning-seeds", default="", help="seeds of the trials (default: 1000)")
    parser.add_argument(
        "--refine", type=int, default=1, help="steps about the best after the grid (default: 1)"
    )
    parser.add_argument(
        "--save",
        default="",
        metavar="NAME",
        help="write chosen settings to ./configs/experiment/NAME.yaml",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan, run nothing")
    parser.add_argument("--no-measure", action="store_true", help="plan without measured times")
    parser.add_argument("--quiet", action="store_true", help="print only the last lines")
    return parser


def _known_jobs(asked: Asked) -> list[Job]:
    """The jobs that are known before the first trial, all checked: of the grid, or its ends."""
    jobs = []
    for cell in asked.cells:
        settings = cell.ends if asked.searched else cell.grid
        jobs += [asked.trial(cell, one, seed) for one in settings for seed in asked.tuning_seeds]
        jobs += [asked.final(cell, settings[0], seed) for seed in asked.seeds]
    return jobs


def _say_plan(asked: Asked, known: Sequence[Job], measured: bool) -> None:
    """What will be run and, before the first run is done, how long it takes."""
    done = len({job.signature for job in known if (run_folder(job) / SUMMARY).exists()})
    found: list[dict[str, Any]] = []
    if not done:
        seeds = asked.tuning_seeds[0], asked.seeds[0]
        first = [(cell, cell.ends[0]) for cell in asked.cells]
        jobs = [
            job
            for cell, one in first
            for job in (asked.trial(cell, one, seeds[0]), asked.final(cell, one, seeds[1]))
        ]
        found = forecasts(jobs, measured)
    print("\n".join(words.planned(asked, done, found)), flush=True)


def _play(
    asked: Asked, how: Settings | None, sweep: Sweeping, base: Job, saved: Sequence[Path]
) -> int:
    cells = repr([(cell.fixed, sorted(cell.axes.items())) for cell in asked.cells])
    seeds = [*asked.seeds, "", *asked.tuning_seeds, how.seed if how else None]
    record = SweepRecord(
        base.config.paths.runs, digest(["tune", run_folder(base).name, cells, seeds])
    )
    facts = {
        "kind": "tune",
        "command": sweep.command,
        "launcher": sweep.about.launcher,
        "keys": asked.keys,
        "cells": [cell.fixed for cell in asked.cells],
        "seeds": asked.seeds,
        "tuning_seeds": asked.tuning_seeds,
        "objective": f"{asked.metric} after the last round",
    }
    with open_sweep_display(sweep.quiet, record.path, asked.runs) as display:
        tune = Tune(asked, Batches(record, sweep, display, facts))
        sweep.stop.defer()
        tune.play(how)
        display.finished()
    jobs, statuses = tune.batches.jobs, tune.batches.statuses
    stop_if_asked(sweep, jobs, statuses)
    if not tune.complete:
        return exit_code(jobs, statuses, sweep.command)
    _tell(tune, saved or [record.path / "chosen" / f"{name}.yaml" for name in names(asked)])
    if not tune.finals:
        print("ffalora: every setting of every cell failed; nothing was chosen", file=sys.stderr)
        return FAILED
    finals = [job for own in tune.finals.values() for job in own]
    code = exit_code(finals, statuses, sweep.command)
    return code if len(tune.finals) == len(asked.cells) else PARTLY_DONE


def _tell(tune: Tune, files: Sequence[Path]) -> None:
    """The tables, the price and the files, on the screen and in the tune's folder."""
    folder, lines = tune.batches.record.path, words.tried(tune)
    table, costs = words.grid(tune), price(tune)
    content = {"command": tune.batches.sweep.command, "metric": tune.asked.metric, "tried": lines}
    write_whole(folder / "tried.csv", csv_text(lines).encode())
    write_whole(folder / "tried.md", f"{formats.markdown(table)}\n".encode())
    write_whole(folder / "tried.tex", f"{formats.latex(table)}\n".encode())
    notes = [*table.notes, *costs]
    write_whole(folder / "tune.json", formats.strict_json({**content, "notes": notes}).encode())
    print()
    print_grid(table, caption="tried")
    runs = [read_run(job.path) for own in tune.finals.values() for job in own if job.finished]
    if runs:
        print()
        print_grid(side_by_side.grid(compare(runs, Question())), caption="chosen")
    print("\n".join(["", *(line for cost in costs for line in labelled("privacy", cost))]).rstrip())
    print(f"tables in {folder}/tried.csv, .md, .tex and tune.json; chosen settings as experiments")
    print("(run one as experiment=NAME from configs/experiment; --save NAME writes them there):")
    for n, file in enumerate(files):
        if n in tune.finals:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, tune.experiment(n).encode())
            print(f"  {file}")


def _files(asked: Asked, name: str) -> list[Path]:
    """Where the experiments go that ``--save`` names, one a cell; none without.

    Raises:
        ConfigError: a name that is none, or a file that somebody wrote.
    """
    if not name:
        return []
    if not re.fullmatch(r"\w[\w-]*", name):
        raise ConfigError(f"--save {brief(name)} should be a name of letters, digits, - and _")
    one = len(asked.cells) == 1
    files = [
        Path("configs", "experiment", f"{name if one else f'{name}_{cell}'}.yaml")
        for cell in names(asked)
    ]
    for file in files:
        if file.exists() and SAID not in file.read_text(encoding="utf-8", errors="replace"):
            raise ConfigError(f"--save {name}: {file} is another experiment; choose another name")
    return files
