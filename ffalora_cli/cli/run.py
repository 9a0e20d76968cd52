"""``ffalora run``: one run, or a sweep; everything is checked before anything runs."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from ffalora_cli.cli.arguments import OVERRIDES, Parser
from ffalora_cli.cli.display import Display, open_display
from ffalora_cli.cli.exits import DONE, FAILED, PARTLY_DONE, TERMINATED
from ffalora_cli.cli.jobs import Job, plan
from ffalora_cli.cli.units import score
from ffalora_cli.config.errors import ConfigError, RunFailed

_EXAMPLES = """\
examples:
  ffalora run experiment=quickstart
  ffalora run task=sst2 paths.data=DATA partition=severe method=lora privacy.epsilon_target=3
  ffalora run experiment=glue_sst2_dp federation=short model=minilm
  ffalora run -m method=lora,ffa_lora seed='range(5)'     10 runs, one after another
  ffalora run debug=smoke                                 two short rounds of anything

Groups and their names: ffalora ls. Keys: configs/config.yaml and the group files beside it."""


def main(arguments: Sequence[str]) -> int:
    """Check every job of the command line, then run them one after another."""
    parser = Parser("run", "Train one federation, or a sweep of them.", _EXAMPLES)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=OVERRIDES)
    parser.add_argument("-m", "--multirun", action="store_true", help="sweep: a=1,2 range() glob()")
    parser.add_argument("--quiet", action="store_true", help="print only the last lines")
    parser.add_argument("--again", action="store_true", help="run even if done before")
    options = parser.read(arguments)
    jobs = plan(options.overrides, options.multirun)
    command = ["ffalora", "run", *arguments]
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        if len(jobs) == 1:
            return _one(jobs[0], options.quiet, options.again, command)[0]
        return _sweep(jobs, options.quiet, options.again, command)
    finally:
        signal.signal(signal.SIGTERM, before)


def _sweep(jobs: list[Job], quiet: bool, again: bool, command: list[str]) -> int:
    """Run jobs in turn; a failed one does not stop the others. Ends with a line a job."""
    lines, failures = [], 0
    for number, job in enumerate(jobs, start=1):
        label = f"job {number}/{len(jobs)}  {shlex.join(job.overrides)}"
        print(f"{'' if number == 1 or quiet else chr(10)}{label}", flush=True)
        try:
            code, outcome = _one(job, quiet, again, command)
        except ConfigError as error:  # known only once the data was read
            code, outcome = FAILED, f"failed: {error}"
            print(f"ffalora: {error}", file=sys.stderr)
        failures += code != DONE
        lines.append(f"{label}  {outcome}")
    print("", *lines, sep="\n")
    if failures:
        print(f"ffalora: {failures} of {len(jobs)} jobs failed", file=sys.stderr)
    return DONE if not failures else FAILED if failures == len(jobs) else PARTLY_DONE


def _one(job: Job, quiet: bool, again: bool, command: list[str]) -> tuple[int, str]:
    """Run one job.

    Returns:
        The exit code, and the outcome in a few words.
    """
    from ffalora_cli import experiment

    with open_display(job, quiet) as display:
        try:
            summary = experiment.run(
                job.config, job.resolved, job.signature, display, again=again, command=command
            )
        except ConfigError:
            raise
        except RunFailed as error:
            display.close()
            kept = display.facts.get("run_dir")
            where = f"; records in {kept}" if kept else ""
            print(f"ffalora: run failed: {error}{where}", file=sys.stderr)
            return FAILED, f"failed: {error}"
        except KeyboardInterrupt:
            run_dir = display.facts.get("run_dir")
            kept = f"the rounds so far are in {run_dir}" if run_dir else "nothing was written"
            raise KeyboardInterrupt(kept) from None
        except Exception as error:
            display.close()
            print(f"ffalora: {_failure(error, job, display)}", file=sys.stderr)
            return FAILED, f"failed: {type(error).__name__}"
    headline = str(summary["headline"]).removeprefix("eval/")
    return DONE, f"{headline} {score(headline, summary['value'])}  {summary['run_dir']}"


def _failure(error: Exception, job: Job, display: Display) -> str:
    """Keep the traceback in a file beside the records; one line says where."""
    if os.environ.get("FFALORA_TRACEBACK") == "1":
        traceback.print_exception(error)
    first = (str(error).strip().splitlines() or [""])[0]
    what = f"run failed: {type(error).__name__}: {first[:120]}"
    run_dir = display.facts.get("run_dir")
    runs = Path(job.config.paths.runs).expanduser()
    file = Path(run_dir, "traceback.txt") if run_dir else runs / f"traceback-{job.signature}.txt"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError:
        return f"{what}; FFALORA_TRACEBACK=1 shows where"
    return f"{what}; traceback in {file}"


def _terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM leaves through the same doors as an exception: files closed, terminal restored."""
    raise SystemExit(TERMINATED)
