"""``ffalora run``: one run, or a sweep; everything is checked before anything runs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from ffalora_cli.cli.arguments import OVERRIDES, Parser
from ffalora_cli.cli.exits import DONE, FAILED, PARTLY_DONE
from ffalora_cli.cli.jobs import Job, plan
from ffalora_cli.cli.running import play
from ffalora_cli.cli.signals import stop_on_signals
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.stopping import StopFlag

_EXAMPLES = """\
examples:
  ffalora run experiment=quickstart
  ffalora run task=sst2 paths.data=DATA partition=severe method=lora privacy.epsilon_target=3
  ffalora run experiment=glue_sst2_dp federation=short model=minilm
  ffalora run -m method=lora,ffa_lora seed='range(5)'     10 runs, one after another
  ffalora run debug=smoke                                 two short rounds of anything

A run that stopped on the way goes on when it is asked for again; a finished one is not repeated.

Groups and their names: ffalora ls. Keys: configs/config.yaml and the group files beside it."""


def main(arguments: Sequence[str]) -> int:
    """Check every job of the command line, then run them one after another."""
    parser = Parser("run", "Train one federation, or a sweep of them.", _EXAMPLES)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=OVERRIDES)
    parser.add_argument("-m", "--multirun", action="store_true", help="sweep: a=1,2 range() glob()")
    parser.add_argument("--quiet", action="store_true", help="print only the last lines")
    parser.add_argument("--again", action="store_true", help="start over, in a new folder")
    options = parser.read(arguments)
    command = ["ffalora", "run", *arguments]
    with stop_on_signals() as stop:
        jobs = plan(options.overrides, options.multirun)
        if len(jobs) == 1:
            return play(jobs[0], options.quiet, command, stop, again=options.again)[0]
        return _sweep(jobs, options.quiet, options.again, command, stop)


def _sweep(jobs: list[Job], quiet: bool, again: bool, command: list[str], stop: StopFlag) -> int:
    """Run jobs in turn; a failed one does not stop the others. Ends with a line a job."""
    lines, failures = [], 0
    for number, job in enumerate(jobs, start=1):
        label = f"job {number}/{len(jobs)}  {shlex.join(job.overrides)}"
        print(f"{'' if number == 1 or quiet else chr(10)}{label}", flush=True)
        try:
            code, outcome = play(job, quiet, command, stop, again=again)
        except ConfigError as error:  # known only once the data was read
            code, outcome = FAILED, f"failed: {error}"
            print(f"ffalora: {error}", file=sys.stderr)
        failures += code != DONE
        lines.append(f"{label}  {outcome}")
    print("", *lines, sep="\n")
    if failures:
        print(f"ffalora: {failures} of {len(jobs)} jobs failed", file=sys.stderr)
    return DONE if not failures else FAILED if failures == len(jobs) else PARTLY_DONE
