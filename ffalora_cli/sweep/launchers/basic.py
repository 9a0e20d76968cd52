"""Plays jobs as processes on this machine: one after another, or ``n_jobs`` at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.sweep.jobs import Note, OnChange, Stop, SweepJob
from ffalora_cli.sweep.launchers.gpus import Gpus
from ffalora_cli.sweep.launchers.process import play
from ffalora_cli.sweep.launchers.remote import cores

LIBRARY = None
PROGRAMS = ()


@dataclass(frozen=True)
class Settings:
    """What can be set."""

    n_jobs: int = 1  # processes at once; -1: as many as GPUs, without any as many as cores

    def __post_init__(self) -> None:
        if self.n_jobs < 1 and self.n_jobs != -1:
            raise ConfigError(
                f"hydra.launcher.n_jobs={self.n_jobs} should be 1 or more, or -1 for every core"
            )


def launch(
    jobs: Sequence[SweepJob], settings: Settings, on_change: OnChange, stop: Stop, note: Note
) -> None:
    """Play the jobs; side by side, the cores and the GPUs are divided among them."""
    gpus = Gpus(jobs, each=0 if settings.n_jobs == 1 else 1)
    at_once = settings.n_jobs if settings.n_jobs > 0 else gpus.room or cores()
    at_once = min(at_once, len(jobs))
    threads = max(1, cores() // at_once) if at_once > 1 else None
    gpus.say_if_shared(at_once, "n_jobs", note)

    def one(job: SweepJob) -> None:
        if stop() is None:
            on_change(job, None)
            ended = play(job.command, stop, threads, gpus.lend(job))
            gpus.take_back(job)
            on_change(job, ended)

    with ThreadPoolExecutor(at_once) as pool:  # a thread only waits for its process
        list(pool.map(one, jobs))  # raises what a thread raised
