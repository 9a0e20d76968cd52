"""Several jobs at once on this machine, as many as ``n_jobs``, by joblib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ffalora_cli.sweep.jobs import OnChange, Stop, SweepJob
from ffalora_cli.sweep.process import play
from ffalora_cli.sweep.remote import cores

LIBRARY = "joblib"


@dataclass(frozen=True)
class Settings:
    """What can be set."""

    n_jobs: int = -1  # processes at once; -1: as many as cores


def launch(jobs: Sequence[SweepJob], settings: Settings, on_change: OnChange, stop: Stop) -> None:
    """Play the jobs side by side; the cores are divided among them.

    joblib's threads only wait: every job is a process of its own in any case.
    """
    import joblib

    at_once = min(joblib.effective_n_jobs(settings.n_jobs), len(jobs))
    threads = max(1, cores() // at_once)

    def one(job: SweepJob) -> None:
        if stop() is None:
            on_change(job, None)
            on_change(job, play(job.command, stop, threads))

    joblib.Parallel(n_jobs=at_once, prefer="threads", batch_size=1)(
        joblib.delayed(one)(job) for job in jobs
    )
