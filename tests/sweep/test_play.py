"""Which jobs are played, what is recorded of each, and how everything is stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.records.reading import find_runs
from ffalora_cli.stopping import StopFlag
from ffalora_cli.sweep.jobs import Command, Ended, once_each
from ffalora_cli.sweep.launchers.base import names, open_launcher, read_settings
from ffalora_cli.sweep.launchers.process import play, write_stop
from ffalora_cli.sweep.play import play_jobs
from ffalora_cli.sweep.record import sweep_digest
from tests.sweep.cases import Seen, finish, sweep_of

LOCK = "runs/x: another process is writing this run (pid 1 on h); wait for it or set name="


def test_what_is_done_is_skipped_and_every_ending_is_recorded(tmp_path):
    record, jobs = sweep_of(tmp_path, "seed=0,1,2,3,4")
    finish(jobs[1])
    ends = {1: Ended(0, 2.0), 3: Ended(1, 1.0, "run failed: x"), 4: Ended(2, 0.1, LOCK)}
    given = []

    def launch(missing, on_change, stop, note):
        given.extend(job.number for job in missing)
        for job in missing[:-1]:
            on_change(job, None)
            on_change(job, ends[job.number])

    seen = Seen()
    statuses = play_jobs(jobs, record, launch, seen, StopFlag())
    assert given == [1, 3, 4, 5]
    states = {1: "done", 2: "already done", 3: "failed", 4: "busy", 5: "waiting"}
    assert {number: status.state for number, status in statuses.items()} == states
    lines = record.history()
    assert [(line["number"], line["state"]) for line in lines] == seen.states
    (failed,) = [line for line in lines if line["state"] == "failed"]
    assert (failed["exit_code"], failed["error"], failed["seconds"]) == (1, "run failed: x", 1.0)
    assert failed["run_dir"] == str(jobs[2].path)
    assert find_runs(tmp_path) == []  # neither the record nor an empty folder is a run


def test_a_launcher_that_refuses_leaves_nothing_of_a_sweep_that_has_not_begun(tmp_path):
    record, jobs = sweep_of(tmp_path / "runs", "seed=0,1")

    def launch(missing, on_change, stop, note):
        if tmp_path.joinpath("begin").exists():
            on_change(missing[0], None)
        raise ConfigError("no place")

    with pytest.raises(ConfigError, match="no place"):
        play_jobs(jobs, record, launch, Seen(), StopFlag())
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "begin").touch()
    record, jobs = sweep_of(tmp_path / "runs", "seed=0,1")
    with pytest.raises(ConfigError, match="no place"):
        play_jobs(jobs, record, launch, Seen(), StopFlag())
    assert [line["state"] for line in record.history()] == ["running"]


def test_fail_fast_stops_what_runs_and_starts_nothing_else(tmp_path):
    record, jobs = sweep_of(tmp_path, "seed=0,1,2")

    def launch(missing, on_change, stop, note):
        for job in missing:
            if stop() is not None:
                return
            on_change(job, None)
            on_change(job, Ended(1, 0.0, "no"))

    for fail_fast, started in ((True, 1), (False, 3)):
        seen = Seen()
        play_jobs(jobs, record, launch, seen, StopFlag(), fail_fast)
        assert [state for _, state in seen.states].count("running") == started


def test_the_same_run_is_played_once_and_names_its_sweep(tmp_path):
    from ffalora_cli.compose.jobs import plan

    twice = plan(["adapter.alpha=8,8.0,16", "engine.threads=1,2"], sweep=True)
    once = once_each(twice)
    assert (len(twice), len(once)) == (6, 2)
    assert sweep_digest(once) == sweep_digest(once_each(twice[::-1])[::-1])
    assert sweep_digest(once) != sweep_digest(once[:1])


@pytest.fixture
def command(tmp_path):
    return Command(("ls", "methods"), tmp_path, tmp_path / "log", tmp_path / "stop")


def test_a_process_of_its_own_with_its_output_and_complaint_kept(command):
    ended = play(command)
    assert (ended.code, ended.error) == (0, None)
    assert "ffa_lora" in command.log.read_text()
    ended = play(replace(command, arguments=("run", "sede=1")))
    assert ended.code == 2
    assert ended.error == "sede is not a configuration key; did you mean 'seed'?"
    assert not ended.error.startswith("ffalora")


@pytest.mark.parametrize("by_file", [True, False])
def test_the_same_signal_reaches_the_process_group(command, by_file, monkeypatch):
    """A stand-in for ``ffalora run`` that says which signal it got, in its group alone."""
    script = (
        "import os,signal,sys,time\n"
        "def end(n,f): print('got',n,os.getpgid(0)==os.getpid(),flush=True); os._exit(128+n)\n"
        "signal.signal(signal.SIGINT,end); signal.signal(signal.SIGTERM,end)\n"
        "print('up',flush=True); time.sleep(60)"
    )
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda words, **how: popen([sys.executable, "-c", script], **how)
    )
    asked: list[int] = []

    def ask():
        while not command.log.exists() or "up" not in command.log.read_text():
            time.sleep(0.01)
        if by_file:
            write_stop(command.stop_file, signal.SIGINT)
        else:
            asked.append(signal.SIGINT)

    thread = threading.Thread(target=ask)
    thread.start()
    ended = play(command, None if by_file else lambda: asked[0] if asked else None)
    thread.join()
    assert ended.code == 130
    assert command.log.read_text().split() == ["up", "got", "2", "True"]


def test_a_process_that_is_to_stop_already_is_not_started_and_later_turns_add_to_the_log(command):
    command.log.write_text("ffalora: of another turn\n")
    write_stop(command.stop_file, signal.SIGINT)
    assert play(command) == Ended(130, 0.0)
    command.stop_file.unlink()
    ended = play(replace(command, arguments=("run", "sede=1")))
    assert "sede is not a configuration key" in (ended.error or "")
    assert command.log.read_text().startswith("ffalora: of another turn\nffalora: sede")


def test_threads_are_shared_out_unless_the_user_did(command, monkeypatch):
    seen = []
    popen = subprocess.Popen

    def spy(words, env, **how):
        seen.append(env.get("OMP_NUM_THREADS"))
        return popen(words, env=env, **how)

    monkeypatch.setattr(subprocess, "Popen", spy)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    play(command, threads=3)
    play(command)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    play(command, threads=3)
    assert seen == ["3", None, "7"]
    assert "OMP_NUM_THREADS" in os.environ


def test_launchers_are_files_and_their_settings_have_types():
    assert {"basic", "ray", "submitit_local", "submitit_slurm"} <= set(names())
    wrong = {
        ("jobib", ""): "hydra/launcher='jobib' is not one of .*did you mean 'joblib'",
        ("joblib", "n_job=2"): "hydra.launcher.n_job is not a setting of basic; .*'n_jobs'",
        ("basic", "backend=loky"): "hydra.launcher.backend is not a setting of basic; its settings",
        ("joblib", "n_jobs=two"): "hydra.launcher.n_jobs='two' should be a whole number",
        ("joblib", "n_jobs=0"): "hydra.launcher.n_jobs=0 should be 1 or more, or -1 for every core",
        ("submitit_slurm", "mem_gb=a"): "hydra.launcher.mem_gb='a' should be a number",
        ("submitit_slurm", "slurm_nodelist=a"): "did you mean 'nodelist'",
        ("submitit_slurm", "setup=module load cuda"): r"should be a list, like \['module load",
        ("submitit_slurm", "setup=[a"): "should be a list",
        ("submitit_slurm", "additional_parameters=[a]"): "a dictionary, like {reservation:NAME}",
        ("submitit_slurm", "timeout_min=3"): "timeout_min=3 leaves no time to train: .*; give 4 at",
    }
    for (name, typed), message in wrong.items():
        with pytest.raises(ConfigError, match=message):
            open_launcher(name, dict([typed.split("=")]) if typed else {})


def test_a_scheduler_that_is_not_here_is_named_before_anything_is_composed(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"submitit_slurm: sbatch, srun, squeue, scancel of the"):
        open_launcher("submitit_slurm", {})


@pytest.mark.parametrize(
    ("name", "n_jobs", "at_once"),
    [("basic", "1", 1), ("basic", "2", 2), ("joblib", None, 3), ("basic", "9", 4)],
)
def test_so_many_jobs_at_once_share_the_cores(tmp_path, monkeypatch, name, n_jobs, at_once):
    """Jobs wait for each other at a barrier: fewer at once would break it, and more the count."""
    together, running, seen = threading.Barrier(at_once), [], []

    def meet(command, stop, threads, gpus):
        running.append(command)
        seen.append((len(running), threads))
        if len(seen) <= 4 // at_once * at_once:
            together.wait(30)
        running.remove(command)
        return Ended(0, 0.0)

    monkeypatch.setattr("ffalora_cli.sweep.launchers.basic.play", meet)
    monkeypatch.setattr("ffalora_cli.sweep.launchers.basic.cores", lambda: 3)
    _, jobs = sweep_of(tmp_path, "seed=0,1,2,3")
    changes = []
    launch = open_launcher(name, {"n_jobs": n_jobs} if n_jobs else {})
    launch(jobs, lambda job, ended: changes.append(job.number if ended else 0), lambda: None, print)
    assert sorted(changes) == [0, 0, 0, 0, 1, 2, 3, 4]
    assert max(count for count, _ in seen) == at_once
    assert {threads for _, threads in seen} == {None if at_once == 1 else max(1, 3 // at_once)}


def test_a_library_that_is_missing_is_named_with_its_remedy(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs ray.*pip install 'ffalora\[sweeps\]'"):
        open_launcher("ray", {})
    open_launcher("basic", {})


def test_slurm_parameters_are_those_submitit_knows(tmp_path):
    from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

    from ffalora_cli.sweep.launchers.submitit_slurm import Settings, parameters

    typed = {"timeout_min": "90", "gpus_per_node": "1", "mem_gb": "16", "partition": "gpu"}
    typed |= {"array_parallelism": "2", "nodelist": "n[1-2]", "tasks_per_node": "2"}
    typed |= {"setup": "['export A=\"1 2\"',module load cuda]", "srun_args": "['--mpi=none']"}
    typed |= {"additional_parameters": "{reservation:mine,exclusive:true}", "qos": "low"}
    settings = read_settings("hydra.launcher", "submitit_slurm", Settings, typed)
    chosen = parameters(settings)
    assert set(chosen) <= SlurmExecutor._valid_parameters()
    text = _make_sbatch_string("true", tmp_path, map_count=4, **chosen)
    for line in (
        *("time=90", "mem=16384MB", "partition=gpu", "gpus-per-node=1", "qos=low", "exclusive"),
        *("reservation=mine", "nodelist='n[1-2]'", "ntasks-per-node=2", "job-name=ffalora"),
    ):
        assert f"#SBATCH --{line}\n" in text
    assert '\nexport A="1 2"\nmodule load cuda\n' in text
    assert re.search(r"\nsrun .* --mpi=none ", text)
    assert "#SBATCH --array=0-3%2\n" in text
    assert "account" not in text
