"""Hands jobs to submitit, the same for its local executor and for Slurm.

submitit pickles the function and the plain values it is called with into the sweep's folder, as is
its way of reaching another machine; nothing of a run is in there.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ffalora_cli.sweep.jobs import Command, Ended, SweepJob
from ffalora_cli.sweep.launchers.process import PYTHON, play

if TYPE_CHECKING:
    import submitit


def executor(kind: Any, jobs: Sequence[SweepJob], turns: int, **parameters: Any) -> Any:
    """One of submitit's executors, in the sweep's folder; a job has so many turns at most."""
    folder = jobs[0].command.log.parent.parent / "submitit"
    made = kind(folder, max_num_timeout=turns, python=shlex.join(PYTHON))
    made.update_parameters(**parameters)
    return made


class Task:
    """What a submitted job does; preempted or out of time, it goes on in its next turn."""

    def __call__(self, command: Command, threads: int | None) -> Ended:
        """Play the job in a process below this one."""
        return play(command, threads=threads)

    def checkpoint(self, command: Command, threads: int | None) -> Any:
        """What submitit puts back into the queue; the run resumes from its last round."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, command, threads)


class SubmititQueue:
    """Takes jobs, as ``remote.follow`` wants it.

    Args:
        executor: with its parameters set.
        threads: for each job's ``OMP_NUM_THREADS``; left alone where None.
    """

    def __init__(self, executor: submitit.Executor, threads: int | None) -> None:
        self._executor, self._threads = executor, threads

    def submit(self, jobs: Sequence[SweepJob]) -> list[Any]:
        """Hand jobs over: an array of them, where the executor knows arrays."""
        with self._executor.batch(allow_implicit_submissions=True):
            return [self._executor.submit(Task(), job.command, self._threads) for job in jobs]

    def ended(self, handle: Any) -> Ended | None:
        """How a job ended; with what submitit says of it when that was not by itself."""
        if not handle.done():
            return None
        try:
            result: Ended = handle.result()
        except Exception as error:  # cancelled, out of memory, out of time: its text says which
            text = " ".join(str(error).split()) or type(error).__name__
            return Ended(1, 0.0, f"{handle.state}: {text}"[:300])
        return result

    def withdraw(self, handle: Any) -> None:
        """Cancel a job that has not begun."""
        handle.cancel(check=False)
