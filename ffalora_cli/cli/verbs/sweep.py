"""``ffalora sweep``, which ``ffalora run -m`` is, too: a grid or a search, job by job."""

from __future__ import annotations

from collections.abc import Sequence

from ffalora_cli.cli.arguments import OVERRIDES, Parser
from ffalora_cli.cli.done import check_done, check_inputs
from ffalora_cli.cli.screen.counting import Counting
from ffalora_cli.cli.screen.sweep_display import open_sweep_display
from ffalora_cli.cli.signals import stop_on_signals
from ffalora_cli.cli.sweep_end import Sweeping, exit_code, stop_if_asked
from ffalora_cli.compose import catalogue
from ffalora_cli.compose.hydra_keys import take
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import counted
from ffalora_cli.config.job import Job
from ffalora_cli.sweep.jobs import grid, once_each, settings
from ffalora_cli.sweep.launchers.base import open_launcher, waits
from ffalora_cli.sweep.play import play_jobs
from ffalora_cli.sweep.record import SweepRecord, sweep_digest

_EXAMPLES = """\
examples:
  ffalora sweep method=lora,ffa_lora seed='range(5)'      10 runs, one after another
  ffalora sweep seed=0,1,2 hydra.launcher.n_jobs=2
  ffalora sweep experiment=quickstart_grid --fail-fast
  ffalora sweep hydra/sweeper=optuna 'federation.local_lr=tag(log,interval(0.05,2))'

Every job is checked before the first starts. What is done is not repeated: the same command again
runs what is missing or failed. Launchers: basic, submitit_local, submitit_slurm, ray. Settings
and record: docs/sweeps.md."""


def main(arguments: Sequence[str]) -> int:
    """Check every job of the command line, then run those that are missing."""
    parser = Parser("sweep", "Run a grid of federations, or search for the best.", _EXAMPLES)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=OVERRIDES)
    parser.add_argument("-m", "--multirun", action="store_true", help="understood: this sweeps")
    parser.add_argument("--quiet", action="store_true", help="print only the last lines")
    parser.add_argument("--fail-fast", action="store_true", help="stop after the first failed job")
    options = parser.read(arguments)
    command = ["ffalora", "sweep", *arguments]
    return sweep(options.overrides, command, options.quiet, options.fail_fast)


def sweep(overrides: Sequence[str], command: Sequence[str], quiet: bool, fail_fast: bool) -> int:
    """Run a sweep.

    Args:
        overrides: as typed, ``hydra`` keys among them.
        command: as typed, for the record and for the line that says how to go on.
        quiet: print only the last lines.
        fail_fast: stop after the first failed job.

    Returns:
        The exit code: 0 all done, 3 partly, 1 all failed.

    Raises:
        ConfigError: anything wrong with any job; nothing was started.
        Stopped: with the line for the user as its second argument.
    """
    rest, about = take(overrides, sweep=True)
    with stop_on_signals() as stop:
        launch = open_launcher(about.launcher, about.launcher_settings)
        sweeping = Sweeping(about, launch, command, quiet, fail_fast, stop)
        if about.sweeper == "optuna":
            from ffalora_cli.cli.searching import search

            return search(rest, sweeping)
        with Counting("checking jobs") as counting:
            planned = plan(rest, sweep=True, told=counting)
        return _grid(planned, sweeping)


def _grid(planned: Sequence[Job], sweep: Sweeping) -> int:
    checked = once_each(planned)
    notes = check_done(checked, sweep=True)
    if waits(sweep.about.launcher):
        check_inputs(checked)
    axes = grid(checked)
    record = SweepRecord(checked[0].config.paths.runs, sweep_digest(checked))
    varying = [{k: v for k, v in settings(job).items() if k in axes} for job in checked]
    jobs = [record.job(n, checked[n - 1], v) for n, v in enumerate(varying, start=1)]
    facts = {"kind": "grid", "command": sweep.command, "launcher": sweep.about.launcher}
    record.write({**facts, "grid": axes}, jobs)
    with open_sweep_display(sweep.quiet, record.path, len(jobs)) as display:
        display.add(jobs)
        for note in (*catalogue.own_words(), *notes):
            display.note(note)
        if len(checked) < len(planned):
            twice = counted(len(planned) - len(checked), "job")
            display.note(f"the same run as another: {twice}; it runs once")
        sweep.stop.defer()
        statuses = play_jobs(jobs, record, sweep.launch, display, sweep.stop, sweep.fail_fast)
        display.finished()
    stop_if_asked(sweep, jobs, statuses)
    return exit_code(jobs, statuses, sweep.command)
