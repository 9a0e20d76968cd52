"""Hands jobs to submitit, the same for its local executor and for Slurm.

submitit pickles the function and the plain values it is called with into the sweep's folder, as is
its way of reaching another machine; nothing of a run is in there.
"""

from __future__ import annotations

import atexit
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ffalora_cli.sweep.jobs import Command, Ended, SweepJob
from ffalora_cli.sweep.launchers.process import PYTHON, play, read_stop

if TYPE_CHECKING:
    import submitit

_LATE = signal.SIGUSR2  # submitit's word for a time limit that is near
_USED_UP = (
    "out of time in its last turn; raise hydra.launcher.timeout_min or max_num_timeout, or run the "
    "same command again: it goes on from its last round"
)


def executor(kind: Any, jobs: Sequence[SweepJob], turns: int, **parameters: Any) -> Any:
    """One of submitit's executors, in the sweep's folder; a job has so many turns at most."""
    folder = jobs[0].command.log.parent.parent / "submitit"
    made = kind(folder, max_num_timeout=turns, python=shlex.join(PYTHON))
    made.update_parameters(**parameters)
    return made


class Task:
    """What a submitted job does; preempted or out of time, it goes on in its next turn."""

    def __call__(self, command: Command, threads: int | None) -> Ended:
        """Play the job in a process below this one, whose exit code becomes that of this one.

        Raises:
            SystemExit: it is in the queue again, or cancelled: there is no result.
        """
        from submitit import JobEnvironment
        from submitit.helpers import TorchDistributedEnvironment

        if JobEnvironment().num_tasks > 1:  # one run on several processes, as torchrun starts it
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        requeue: Any = signal.getsignal(_LATE)  # submitit's handler, which does not return
        told: list[int] = []
        for number in (signal.SIGTERM, _LATE):
            signal.signal(number, lambda number, _: told.append(number))

        def stop() -> int | None:
            return read_stop(command.stop_file) or (_LATE if _LATE in told else None)

        ended = play(command, stop, threads)
        if told and ended.code >= 128 and read_stop(command.stop_file) is None:
            ended = _again(requeue, told, ended)
        atexit.register(os._exit, ended.code)  # after submitit has written the result
        return ended

    def checkpoint(self, command: Command, threads: int | None) -> Any:
        """What submitit puts back into the queue; the run resumes from its last round."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, command, threads)


def _again(requeue: Any, told: Sequence[int], ended: Ended) -> Ended:
    """Put a job that was interrupted, and has saved, back into the queue; return if it may not.

    Slurm requeues a preempted job by itself, but not one that leaves in its time of grace, which
    is still RUNNING; and one that somebody cancelled would come back to life if it were asked for.
    """
    from submitit.core.utils import UncompletedJobError

    if _LATE not in told and _state() != "RUNNING":
        sys.exit(ended.code)
    try:
        requeue(_LATE, None)
    except UncompletedJobError:
        return replace(ended, code=1, error=_USED_UP)
    return ended


def _state() -> str:
    """What Slurm says of the job that this process is in."""
    command = ["squeue", "--noheader", "--format=%T", "--jobs", os.environ.get("SLURM_JOB_ID", "")]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


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
        return outcome(handle) if handle.done() else None

    def withdraw(self, handles: Sequence[Any]) -> list[Any]:
        """None: they have all begun, and leave by themselves once there is a stop file."""
        return []


def outcome(handle: Any) -> Ended:
    """What the first task of a job returned, or the last line of what it died of."""
    first = handle.task(0)
    try:
        result: Ended = first.result()
    except Exception as error:
        text = str(error).partition("\nYou can check full logs")[0]
        lines = [line.strip("- ") for line in text.splitlines() if line.strip("- ")]
        return Ended(1, 0.0, f"{lines[-1]}; its output: {first.paths.stderr}"[:300])
    return result
