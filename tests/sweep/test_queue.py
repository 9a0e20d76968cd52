"""How jobs in a scheduler's queue are followed, by answers that a real Slurm gave."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from ffalora_cli.sweep.jobs import Ended
from ffalora_cli.sweep.launchers import submitit_queue, submitit_slurm
from ffalora_cli.sweep.launchers.process import read_stop
from ffalora_cli.sweep.launchers.remote import follow
from ffalora_cli.sweep.launchers.submitit_slurm import SlurmQueue
from tests.sweep.cases import sweep_of


class Handle(SimpleNamespace):
    """A job of submitit's without a result."""

    def __init__(self, job_id: str, folder: Path) -> None:
        paths = SimpleNamespace(result_pickle=folder / f"{job_id}.pkl", stderr=folder / "err")
        super().__init__(job_id=job_id, paths=paths, task=lambda number: self)


@pytest.fixture
def slurm(monkeypatch):
    """Answers of squeue, one a question, and every command that is run."""
    said = SimpleNamespace(answers=[], commands=[])

    def run(command, **how):
        said.commands.append(command)
        if command[0] != "squeue":
            return subprocess.CompletedProcess(command, 0, "")
        answer = said.answers.pop(0)
        return subprocess.CompletedProcess(command, 1 if answer is None else 0, answer or "")

    monkeypatch.setattr(submitit_slurm.subprocess, "run", run)
    monkeypatch.setattr(submitit_slurm, "_PAUSE", 0.0)
    monkeypatch.setattr(submitit_slurm, "_SHORT_PAUSE", 0.0)
    return said


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        (["1 RUNNING\n", "1 COMPLETING\n", "1 PENDING\n", "1 RUNNING\n"], None),  # preempted
        (["1 PREEMPTED\n", "1 PENDING\n", "1 FAILED\n", "1 RUNNING\n"], None),
        (["1 RUNNING\n", "1 CANCELLED\n", None, None], None),  # its controller is away
        (["1 RUNNING\n", "1 CANCELLED\n", "1 CANCELLED\n"], "CANCELLED"),
        (["1 RUNNING\n", "1 OUT_OF_MEMORY\n", "2 RUNNING\n"], "it is not in the queue any more"),
        (["", ""], "it is not in the queue any more"),
    ],
)
def test_a_job_without_a_result_is_over_once_slurm_has_said_so_twice(slurm, tmp_path, answers, why):
    slurm.answers = list(answers)
    queue, handle = SlurmQueue(None, None), Handle("1", tmp_path)
    ends = [queue.ended(handle) for _ in answers]
    assert ends[:-1] == [None] * (len(answers) - 1)
    message = f"ended by Slurm: {why}; its output: {tmp_path / 'err'}"
    assert ends[-1] == (None if why is None else Ended(1, 0.0, message))


def test_what_waits_is_cancelled_in_one_command_and_what_runs_is_not(slurm, tmp_path):
    """The record of an array that waits is one for all its jobs, and is cancelled as one."""
    slurm.answers = ["19 CANCELLED\n19_0 RUNNING\n18 COMPLETED\n"]
    handles = [Handle(f"19_{n}", tmp_path) for n in range(4)]
    assert SlurmQueue(None, None).withdraw(handles) == handles[1:]
    assert slurm.commands[0] == ["scancel", "--quiet", "--state=PENDING", "19"]


def test_after_a_stop_only_what_runs_is_waited_for(tmp_path):
    """Of three jobs one runs, one has never begun, one waits for its second turn."""
    _, jobs = sweep_of(tmp_path, "seed=0,1,2")
    runs, _, again = jobs
    for job in (runs, again):
        job.command.log.touch()
    asked, changes = [], []

    class Queue:
        def submit(self, given):
            return [job.number for job in given]

        def ended(self, handle):
            if not asked or read_stop(runs.command.stop_file) is None:
                asked.append(signal.SIGINT)
                return None
            return Ended(130, 1.0) if handle == runs.number else None

        def withdraw(self, handles):
            return [n for n in handles if n != runs.number]

    follow(Queue(), jobs, lambda job, end: changes.append((job, end)), lambda: (asked or [None])[0])
    assert changes == [
        (runs, None),
        (again, None),
        (again, Ended(130, 0.0)),
        (runs, Ended(130, 1.0)),
    ]


@pytest.mark.parametrize(
    ("told", "state", "requeued"),
    [
        ([signal.SIGUSR2], "RUNNING", True),  # out of time
        ([signal.SIGTERM], "RUNNING", True),  # preempted, with some grace
        ([signal.SIGTERM], "COMPLETING", False),  # Slurm requeues it, or somebody cancelled it
    ],
)
def test_who_puts_an_interrupted_job_back(monkeypatch, told, state, requeued):
    monkeypatch.setattr(submitit_queue, "_state", lambda: state)
    calls = []
    if requeued:
        submitit_queue._again(lambda *given: calls.append(given), told, Ended(143, 1.0))
    else:
        with pytest.raises(SystemExit, match="143"):
            submitit_queue._again(lambda *given: calls.append(given), told, Ended(143, 1.0))
    assert calls == ([(signal.SIGUSR2, None)] if requeued else [])


def test_time_outs_that_are_used_up_say_so():
    from submitit.core.utils import UncompletedJobError

    def refuse(number, frame):
        raise UncompletedJobError("Job not requeued because: timed-out too many times.")

    ended = submitit_queue._again(refuse, [signal.SIGUSR2], Ended(140, 3.0, "stopped"))
    assert (ended.code, ended.seconds) == (1, 3.0)
    assert "raise hydra.launcher.timeout_min or max_num_timeout" in (ended.error or "")


def test_what_submitit_died_of_is_its_last_line(tmp_path):
    from submitit.core.utils import FailedJobError

    trace = (
        "Job (task=0) failed during processing with trace:\n----------------------\n"
        'Traceback (most recent call last):\n  File "submission.py", line 55, in process_job\n'
        "OSError: [Errno 28] No space left on device\n\n----------------------\n"
        "You can check full logs with 'job.stderr(0)' and 'job.stdout(0)'or at paths:\n  - x"
    )

    def fail():
        raise FailedJobError(trace)

    handle = Handle("1", tmp_path)
    handle.result = fail
    error = submitit_queue.outcome(handle).error
    wanted = f"OSError: [Errno 28] No space left on device; its output: {tmp_path / 'err'}"
    assert error == wanted[:300]
