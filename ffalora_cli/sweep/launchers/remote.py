"""Plays jobs by another process, maybe on another machine: what such launchers share.

Such a process has the same file system and nothing else of ours: a job has begun when its log is
there, and is asked to stop through the sweep's stop file. One that begins when that is there leaves
at once.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from ffalora_cli.sweep.jobs import Ended, OnChange, Stop, SweepJob
from ffalora_cli.sweep.launchers.process import write_stop

_POLL = 0.2  # seconds


class Queue(Protocol):
    """A place that takes jobs; its handles are its own affair."""

    def submit(self, jobs: Sequence[SweepJob]) -> list[Any]:
        """Hand jobs over; a handle for each."""

    def ended(self, handle: Any) -> Ended | None:
        """How a job ended; None while it waits or runs."""

    def withdraw(self, handles: Sequence[Any]) -> list[Any]:
        """Take back those that wait; those taken. Asked again while others are waited for."""


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def follow(
    queue: Queue,
    jobs: Sequence[SweepJob],
    on_change: OnChange,
    stop: Stop,
    at_once: int | None = None,
) -> None:
    """Hand jobs over and follow them to their ends.

    Args:
        queue: takes them.
        jobs: in the order they should begin.
        on_change: is told.
        stop: polled.
        at_once: jobs handed over at a time; all where None: the queue holds them back itself.
    """
    waiting, open_jobs = deque(jobs), list[tuple[Any, SweepJob]]()
    begun: set[int] = set()
    while waiting or open_jobs:
        asked = stop()
        if asked is None:
            room = len(waiting) if at_once is None else at_once - len(open_jobs)
            batch = [waiting.popleft() for _ in range(min(room, len(waiting)))]
            if batch:
                open_jobs += zip(queue.submit(batch), batch, strict=True)
        else:
            waiting.clear()
            for job in _withdraw(queue, open_jobs, asked):
                if job.number in begun:  # its next turn was waited for
                    on_change(job, Ended(128 + asked, 0.0))
        for handle, job in list(open_jobs):
            ended = queue.ended(handle)
            if job.number not in begun and (ended is not None or job.command.log.exists()):
                begun.add(job.number)
                on_change(job, None)
            if ended is not None:
                open_jobs.remove((handle, job))
                on_change(job, ended)
        if open_jobs:
            time.sleep(_POLL)


def _withdraw(queue: Queue, open_jobs: list[tuple[Any, SweepJob]], number: int) -> list[SweepJob]:
    """Ask those that run to stop and take back the others, which leave the list; these."""
    for _, job in open_jobs[:1]:  # they share the file
        if not job.command.stop_file.exists():
            write_stop(job.command.stop_file, number)
    taken = queue.withdraw([handle for handle, _ in open_jobs])
    gone = [job for handle, job in open_jobs if handle in taken]
    open_jobs[:] = [pair for pair in open_jobs if pair[0] not in taken]
    return gone
