"""Checked jobs of a sweep in a record of their own, without anything being trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ffalora_cli.compose.jobs import plan
from ffalora_cli.sweep.jobs import SweepJob, grid, once_each, settings
from ffalora_cli.sweep.record import SweepRecord, sweep_digest


def sweep_of(runs: Path, *overrides: str) -> tuple[SweepRecord, list[SweepJob]]:
    """The record and the jobs of a grid."""
    checked = once_each(plan([f"paths.runs={runs}", *overrides], sweep=True))
    axes = grid(checked)
    record = SweepRecord(runs, sweep_digest(checked))
    varying = [{k: v for k, v in settings(job).items() if k in axes} for job in checked]
    return record, [record.job(n + 1, job, varying[n]) for n, job in enumerate(checked)]


def finish(job: SweepJob) -> None:
    """Make a job's run a finished one."""
    job.path.mkdir(parents=True)
    (job.path / "summary.json").write_text('{"value": 0.5, "rounds": 20}')


class Seen:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.states: list[tuple[int, str]] = []
        self.notes: list[str] = []

    def changed(self, job: SweepJob, status) -> None:
        self.states.append((job.number, status.state))

    def note(self, text: str) -> None:
        self.notes.append(text)


def quick(jobs: list[SweepJob]) -> list[SweepJob]:
    """The jobs with a command that ends in a moment."""
    return [replace(job, command=replace(job.command, arguments=("ls", "methods"))) for job in jobs]


def most_at_once(told: Path) -> dict[str, int]:
    """The most jobs that saw each GPU at a time, by such a file."""
    now, most = Counter[str](), Counter[str]()
    for line in told.read_text().splitlines():
        for name in line[1:].split(","):
            now[name] += 1 if line[0] == "+" else -1
            most[name] = max(most[name], now[name])
    return most


@contextmanager
def gpus_of_jobs(folder: Path) -> Iterator[Path]:
    """A file that gets a line ``+GPUS`` when a job begins that sees these, ``-GPUS`` at its end."""
    log = folder / "told"
    (folder / "sitecustomize.py").write_text(
        "import atexit, os, sys\n"
        "def tell(sign):\n"
        f"    with open({str(log)!r}, 'a') as stream:\n"
        "        stream.write(sign + os.environ.get('CUDA_VISIBLE_DEVICES', 'unset') + '\\n')\n"
        "if 'ffalora_cli' in sys.orig_argv:\n"
        "    tell('+')\n"
        "    atexit.register(tell, '-')\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        yield log
