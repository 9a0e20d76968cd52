"""What becomes of a sweep's jobs on a real Slurm that preempts, ends and cancels them."""

from __future__ import annotations

import os
import signal
import time

import pytest

from ffalora_cli.sweep.launchers import submitit_slurm
from tests.sweep.slurm import INSTALLED, Played, said, slurm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not INSTALLED, reason="no Slurm on this machine"),
]
LATE = {"timeout_min": "4"}  # as good as over for submitit, from the first second
ALL = str(os.cpu_count())  # of the node: one job at a time


@pytest.fixture(scope="module", autouse=True)
def up(tmp_path_factory):
    with slurm(tmp_path_factory.mktemp("slurm")):
        yield


@pytest.fixture
def play(tmp_path, monkeypatch):
    monkeypatch.setattr(submitit_slurm, "_PAUSE", 2.0)
    yield lambda typed, *works: Played(tmp_path, {"cpus_per_task": ALL, **typed}, *works)
    said("scancel", "--me")


def again_now(job: Played) -> None:
    """Let Slurm's delay before a requeued job pass."""
    deadline = time.monotonic() + 60
    while job.states()[job.slurm_id()][0] != "PENDING":
        assert time.monotonic() < deadline, job.states()
        time.sleep(0.2)
    said("scontrol", "update", f"JobId={job.slurm_id()}", "StartTime=now")


def test_the_exit_code_of_a_job_is_the_runs(play):
    job = play({}, (2, 0))
    (ended,) = job.finish().values()
    assert (ended.code, ended.error) == (2, "it is broken")
    deadline = time.monotonic() + 20
    while job.states()[job.slurm_id()][0] != "FAILED":
        assert time.monotonic() < deadline, job.states()
    assert "ExitCode=2:0" in said("scontrol", "show", "job", job.slurm_id())


@pytest.mark.parametrize("partition", ["low", "cancel"])
def test_a_preempted_job_is_followed_into_its_next_turn(play, partition):
    """Slurm requeues the one by itself; the other has seconds of grace and would be cancelled."""
    job = play({"partition": partition}, (0, 100))
    job.wait(1, "turn 0")
    said("sbatch", "-p", "high", "-c", ALL, "-o", "/dev/null", "--wrap", "sleep 1")
    job.wait(1, "saved None")
    assert job.ends == {}
    again_now(job)
    assert job.finish()[1].code == 0
    assert job.log(1) == ["turn 0", "saved None", "turn 1"]


def test_a_job_out_of_time_has_so_many_turns_and_says_so_after_the_last(play):
    job = play({**LATE, "max_num_timeout": "0"}, (0, 100))
    job.wait(1, "turn 0")
    said("scancel", "--signal=USR2", job.slurm_id())
    ended = job.finish()[1]
    assert ended.code == 1 and "raise hydra.launcher.timeout_min" in (ended.error or "")
    assert job.log(1) == ["turn 0", "saved None"]


def test_a_job_out_of_time_goes_on(play):
    job = play({**LATE, "max_num_timeout": "1"}, (0, 100))
    job.wait(1, "turn 0")
    said("scancel", "--signal=USR2", job.slurm_id())
    again_now(job)
    assert job.finish()[1].code == 0
    assert job.log(1) == ["turn 0", "saved None", "turn 1"]


def test_a_job_that_somebody_cancels_ends_for_good(play):
    job = play({}, (0, 100))
    job.wait(1, "turn 0")
    said("scancel", job.slurm_id())
    ended = job.finish()[1]
    assert ended.code == 1 and ended.error.startswith("ended by Slurm: CANCELLED")
    assert job.states()[job.slurm_id()][0] == "CANCELLED"


def test_a_stop_cancels_what_waits_at_once_and_what_runs_saves(play):
    jobs = play({}, (0, 100), (0, 100), (0, 100))
    jobs.wait(1, "turn 0")
    jobs.asked = signal.SIGINT
    ends = jobs.finish(60)
    assert {number: ended.code for number, ended in ends.items()} == {1: 130}
    assert jobs.begun == [1] and jobs.log(1) == ["turn 0", "saved None"]
    assert "PENDING" not in {state for state, _ in jobs.states().values()}


def test_a_stop_does_not_wait_for_the_next_turn_and_keeps_the_log(play):
    job = play({}, (0, 100))
    job.wait(1, "turn 0")
    said("scontrol", "requeue", job.slurm_id())
    job.wait(1, "saved None")
    job.asked = signal.SIGINT
    assert job.finish(60)[1].code == 130
    assert job.log(1) == ["turn 0", "saved None"]


def test_tasks_of_a_job_are_the_processes_of_one_run_and_all_of_them_save(play):
    job = play({"cpus_per_task": "1", "tasks_per_node": "2"}, (0, 100))
    job.wait(1, "turn 0")
    while len(job.log(1)) < 4:
        time.sleep(0.1)
    places = sorted(line.split() for line in job.log(1) if "turn" not in line)
    assert [place[:4] for place in places] == [["0", "2", "0", "2"], ["1", "2", "1", "2"]]
    assert places[0][4:] == places[1][4:]  # where to meet
    job.asked = signal.SIGINT
    assert job.finish(60)[1].code == 130
    assert sorted(job.log(1))[-2:] == ["turn 0", "turn 0"] and job.begun == [1]
    assert {"saved 0", "saved 1"} <= set(job.log(1))
