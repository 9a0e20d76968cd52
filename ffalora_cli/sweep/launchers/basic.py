"""Plays jobs as processes on this machine: one after another, or ``n_jobs`` at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.sweep.jobs import OnChange, Stop, SweepJob
from ffalora_cli.sweep.launchers.process import play
from ffalora_cli.sweep.launchers.remote import cores

LIBRARY = None
PROGRAMS = ()


@dataclass(frozen=True)
class Settings:
    """What can be set."""

    n_jobs: int = 1  # processes at once; -1: as many as cores

    def __post_init__(self) -> None:
        if self.n_jobs < 1 and self.n_jobs != -1:
            raise ConfigError(
                f"hydra.launcher.n_jobs={self.n_jobs} should be 1 or more, or -1 for every core"
            )


def launch(jobs: Sequence[SweepJob], settings: Settings, on_change: OnChange, stop: Stop) -> None:
    """Play the jobs; side by side, the cores are divided among them."""
    at_once = min(cores() if settings.n_jobs == -1 else settings.n_jobs, len(jobs))
    threads = max(1, cores() // at_once) if at_once > 1 else None

    def one(job: SweepJob) -> None:
        if stop() is None:
            on_change(job, None)
            on_change(job, play(job.command, stop, threads))

    with ThreadPoolExecutor(at_once) as pool:  # a thread only waits for its process
        list(pool.map(one, jobs))  # raises what a thread raised
