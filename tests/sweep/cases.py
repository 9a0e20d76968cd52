"""Checked jobs of a sweep in a record of their own, without anything being trained."""

from __future__ import annotations

from pathlib import Path

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

    def changed(self, job: SweepJob, status) -> None:
        self.states.append((job.number, status.state))
