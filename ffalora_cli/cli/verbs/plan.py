"""``ffalora plan``: what a run or a sweep will cost and promise, before anything runs."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ffalora_cli.cli.arguments import OVERRIDES, Parser
from ffalora_cli.cli.exits import DONE
from ffalora_cli.cli.screen import plan_words
from ffalora_cli.cli.screen.counting import Counting
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import naming_job
from ffalora_cli.config.job import Job

SCHEMA = 1  # of the JSON; raised when a key changes its meaning

_EXAMPLES = """\
examples:
  ffalora plan experiment=quickstart
  ffalora plan experiment=glue_sst2_dp paths.data=DATA --no-measure
  ffalora plan -m method=lora,ffa_lora seed=0,1,2 --format json

Time and memory come from a few steps of the run's own engine; --no-measure leaves them out.
Nothing is written but the caches of tokens and calibrated noise."""


def main(arguments: Sequence[str]) -> int:
    """Forecast every job of the command line and print it."""
    parser = Parser("plan", "Say what a run or a sweep will do, before it does.", _EXAMPLES)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=OVERRIDES)
    parser.add_argument("-m", "--multirun", action="store_true", help="sweep: a=1,2 range() glob()")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--no-measure", action="store_true", help="no step: no time, no memory")
    options = parser.read(arguments)
    with Counting("checking jobs") as counting:
        jobs = plan(options.overrides, options.multirun, told=counting)
    found = forecasts(jobs, measured=not options.no_measure)
    if options.format == "json":
        print(json.dumps({"schema": SCHEMA, "jobs": found, "total": total(found)}, indent=2))
        return DONE
    if len(found) == 1:
        lines = plan_words.one(found[0], jobs[0].config)
    else:
        lines = plan_words.several(found, total(found), [_varied(j, jobs) for j in jobs])
    print("\n".join(lines))
    return DONE


def forecasts(jobs: list[Job], measured: bool) -> list[dict[str, Any]]:
    """One forecast a job; what is the same for several jobs is done once.

    Raises:
        ConfigError: the first impossible job; in a sweep the error names it.
    """
    from ffalora_cli.experiment.forecast.forecast import Forecaster, Nobody
    from ffalora_cli.hub.access import DOWNLOADING
    from ffalora_cli.models.packaged import CONVERTING

    class _Waits(Nobody):
        """Says on standard error what takes a person's time; the rest is in the forecast."""

        def note(self, text: str) -> None:
            if text.startswith((DOWNLOADING, CONVERTING)):
                print(f"ffalora: {text}", file=sys.stderr)

    forecaster, found = Forecaster(measured, _Waits()), []
    typed = [job.overrides for job in jobs]
    with Counting("planning jobs") as counting:
        for number, job in enumerate(jobs, start=1):
            with naming_job(number, typed):
                forecast = forecaster.forecast(job)
            names = {"overrides": list(job.overrides), "signature": job.signature}
            found.append({**names, **forecast})
            counting(number, len(jobs))
    return found


def total(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of all jobs, one after another; null where nothing was measured."""
    times = [job["time"] for job in found if job["time"] is not None]
    peaks = [job["memory"]["peak_bytes"] for job in found if job["memory"]["peak_bytes"]]
    return {
        "jobs": len(found),
        "rounds": sum(job["rounds"]["planned"] for job in found),
        "uplink_bytes": sum(job["communication"]["uplink"]["total"] for job in found),
        "downlink_bytes": sum(job["communication"]["downlink"]["total"] for job in found),
        "seconds": sum(t["seconds"] for t in times) if times else None,
        "error": max(t["error"] for t in times) if times else None,
        "peak_bytes": max(peaks) if peaks else None,
        "run_folders": sum(job["disk"]["run_folder"] for job in found),
    }


def _varied(job: Job, jobs: Sequence[Job]) -> str:
    """The overrides of a job that not all jobs share."""
    shared = set.intersection(*(set(other.overrides) for other in jobs))
    return shlex.join(text for text in job.overrides if text not in shared)
