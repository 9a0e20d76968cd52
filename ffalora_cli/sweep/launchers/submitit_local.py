"""Plays jobs by submitit on this machine: what ``submitit_slurm`` does, without Slurm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ffalora_cli.sweep.jobs import OnChange, Stop, SweepJob
from ffalora_cli.sweep.launchers.remote import cores, follow
from ffalora_cli.sweep.launchers.submitit_queue import SubmititQueue, executor

LIBRARY = "submitit"
PROGRAMS = ()


@dataclass(frozen=True)
class Settings:
    """What can be set."""

    timeout_min: int = 60  # after which a job is stopped and goes on in its next turn
    gpus_per_node: int = 0  # the first so many are visible to every job
    array_parallelism: int | None = None  # jobs at once; null: as many as cores
    max_num_timeout: int = 3  # turns a job may get after time-outs


def launch(jobs: Sequence[SweepJob], settings: Settings, on_change: OnChange, stop: Stop) -> None:
    """Play the jobs through submitit's local executor, which would start all of them at once."""
    import submitit

    limits = {"timeout_min": settings.timeout_min, "gpus_per_node": settings.gpus_per_node}
    made = executor(submitit.LocalExecutor, jobs, settings.max_num_timeout, **limits)
    at_once = min(settings.array_parallelism or cores(), len(jobs))
    queue = SubmititQueue(made, max(1, cores() // at_once))
    follow(queue, jobs, on_change, stop, at_once)
