"""Plays jobs by submitit on this machine: what ``submitit_slurm`` does, without Slurm."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ffalora_cli.sweep.jobs import Ended, Note, OnChange, Stop, SweepJob
from ffalora_cli.sweep.launchers.gpus import VISIBLE, Gpus
from ffalora_cli.sweep.launchers.remote import cores, follow
from ffalora_cli.sweep.launchers.submitit_queue import SubmititQueue, Task, executor

LIBRARY = "submitit"
PROGRAMS = ()


@dataclass(frozen=True)
class Settings:
    """What can be set."""

    timeout_min: int = 60  # after which a job is stopped and goes on in its next turn
    gpus_per_node: int = 1  # of its own for each job, where there are any; 0: none
    array_parallelism: int | None = None  # jobs at once; null: as GPUs allow, without any as cores
    max_num_timeout: int = 3  # turns a job may get after time-outs


class TaskOnGpus(Task):
    """A task that sees these GPUs; submitit would show every task the same first ones."""

    def __init__(self, gpus: str | None) -> None:
        self._gpus = gpus

    def __call__(self, *arguments: Any) -> Ended:
        """Play the job in a process below this one."""
        os.environ[VISIBLE] = self._gpus or ""
        return super().__call__(*arguments)


class LocalQueue(SubmititQueue):
    """Takes jobs and lends each of them GPUs until it has ended."""

    def __init__(self, executor: Any, threads: int | None, gpus: Gpus) -> None:
        super().__init__(executor, threads)
        self._gpus, self._jobs = gpus, dict[str, SweepJob]()

    def submit(self, jobs: Sequence[SweepJob]) -> list[Any]:
        """Hand jobs over."""
        handles = []
        for job in jobs:
            task = TaskOnGpus(self._gpus.lend(job))
            handles.append(self._executor.submit(task, job.command, self._threads))
            self._jobs[handles[-1].job_id] = job
        return handles

    def ended(self, handle: Any) -> Ended | None:
        """How a job ended; its GPUs are then the next one's."""
        ended = super().ended(handle)
        if ended is not None:
            self._gpus.take_back(self._jobs[handle.job_id])
        return ended


def launch(
    jobs: Sequence[SweepJob], settings: Settings, on_change: OnChange, stop: Stop, note: Note
) -> None:
    """Play the jobs through submitit's local executor, which would start all of them at once."""
    import submitit

    gpus = Gpus(jobs, settings.gpus_per_node)
    at_once = min(settings.array_parallelism or gpus.room or cores(), len(jobs))
    gpus.say_if_shared(at_once, "array_parallelism", note)
    made = executor(
        submitit.LocalExecutor, jobs, settings.max_num_timeout, timeout_min=settings.timeout_min
    )
    queue = LocalQueue(made, max(1, cores() // at_once), gpus)
    follow(queue, jobs, on_change, stop, at_once)
