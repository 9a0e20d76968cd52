"""Sweeps of real runs in real processes: partly failed, gone on with, busy, stopped, launched."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from ffalora_cli.cli.main import main
from ffalora_cli.records.lock import FolderLock
from ffalora_cli.records.reading import find_runs, read_run
from tests import ROOT
from tests.tiny import save_tiny_bert


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("model"))


@pytest.fixture
def settings(model, tmp_path):
    """A run of one small round on the packaged rows."""
    names = [f"model.source={model}", f"paths.runs={tmp_path}/runs"]
    tiny = ["model=auto", "debug=tiny", "task.max_length=8", "task.holdout_fraction=0.03"]
    return [*tiny, *names, "privacy.accountant=rdp"]


def history(tmp_path) -> list[dict]:
    (file,) = tmp_path.glob("runs/sweeps/*/jobs.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_failed_job_is_recorded_the_rest_go_on_and_only_it_is_repeated(
    settings, model, tmp_path, capsys
):
    other = tmp_path / "late"
    grid = [*settings, "privacy=none", f"model.source={other},{model}"]
    assert main(["run", "-m", *grid]) == 3
    out, err = capsys.readouterr()
    assert "ffalora: 1 failed of 2 jobs; run what is missing with: ffalora run -m" in err
    first, second = history(tmp_path)[1], history(tmp_path)[3]
    assert (first["state"], first["exit_code"], second["state"]) == ("failed", 2, "done")
    assert str(other) in first["error"]
    assert f"job 1: {first['error']}" in out
    (finished,) = find_runs(tmp_path / "runs")
    assert read_run(finished).summary["rounds"] == 1
    assert second["run_dir"] == str(finished)
    shutil.copytree(model, other)
    assert main(["sweep", "--quiet", *grid]) == 0
    states = [(line["number"], line["state"]) for line in history(tmp_path)[4:]]
    assert states == [(2, "already done"), (1, "running"), (1, "done")]
    (sweep,) = tmp_path.glob("runs/sweeps/*/sweep.json")
    content = json.loads(sweep.read_text())
    assert [job["run_dir"] for job in content["jobs"]] == [
        line["run_dir"] for line in history(tmp_path)[:4:2]
    ]
    assert content["grid"] == {"model.source": [str(other), model]}


def test_a_run_that_another_process_writes_is_busy_not_failed(settings, tmp_path, capsys):
    from ffalora_cli.compose.jobs import plan
    from ffalora_cli.records.run_directory import run_folder

    folder = run_folder(plan(settings)[0])
    folder.mkdir(parents=True)
    lock = FolderLock(folder)
    try:
        assert main(["sweep", *settings]) == 3
    finally:
        lock.release()
    assert history(tmp_path)[-1]["state"] == "busy"
    assert f"pid {os.getpid()}" in history(tmp_path)[-1]["error"]
    assert "1 busy of 1 job;" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        (["seed=0,1", "privacy=example,nope"], "privacy='nope'"),
        (["federation.rounds=2,0"], "(job 2 of 2: federation.rounds=0)"),
        (["hydra/launcher=jobib", "seed=0,1"], "did you mean 'joblib'?"),
        (["hydra.sweeper.n_trials=3", "seed=0,1"], "add hydra/sweeper=optuna"),
        (["hydra/sweeper=optuna", "seed=1"], "has nothing to vary"),
        (["hydra/sweeper=optuna", "seed=1,2", "hydra.sweeper.n_trial=3"], "'n_trials'"),
        (["hydra/sweeper=optuna", "federation.rounds=int(interval(0,3))"], "federation.rounds=0"),
        (["federation.local_lr=interval(0.1,1)"], "hydra/sweeper=optuna"),
        (["experiment=quickstart_grid,quickstart"], "one at a time"),
    ],
)
def test_nothing_is_started_or_written_unless_everything_is_right(
    typed, complaint, tmp_path, capsys
):
    assert main(["sweep", f"paths.runs={tmp_path}", *typed]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        (["model.source=package:no_such/model"], "no_such is not installed"),
        (["seed=0,1", "task=sst2", "paths.data=."], "paths.data=. has no folder 'sst2'"),
        (
            ["hydra/sweeper=optuna", "privacy.max_grad_norm=choice(1,2)", "model.source=/nowhere"],
            "no config.json there",
        ),
    ],
)
def test_what_a_job_would_miss_in_a_queue_is_missed_before_it_is_submitted(
    typed, complaint, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("shutil.which", lambda name: name)  # Slurm's programs are "here"
    typed = ["hydra/launcher=submitit_slurm", *typed]
    assert main(["sweep", f"paths.runs={tmp_path}/runs", *typed]) == 2
    assert complaint in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        (["hydra/launcher=joblib"], "write ffalora sweep ..., or add -m"),
        (["experiment=quickstart_grid"], "ffalora sweep experiment=quickstart_grid"),
        (["-m", "seed=0,1", "--again"], "name=NEW"),
    ],
)
def test_what_is_a_sweep_and_what_is_none(typed, complaint, capsys):
    assert main(["run", *typed]) == 2
    assert complaint in capsys.readouterr().err


def start(words: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ffalora_cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        cwd=ROOT,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "number"),
    [
        ("basic", signal.SIGINT),
        ("joblib", signal.SIGTERM),
        ("submitit_local", signal.SIGTERM),
        ("ray", signal.SIGINT),
        ("ray", signal.SIGTERM),
    ],
)
def test_a_signal_reaches_the_jobs_and_the_same_command_goes_on(
    settings, tmp_path, launcher, number
):
    words = ["sweep", *settings, "federation.rounds=150", "seed=0,1", f"hydra/launcher={launcher}"]
    child = start(words)
    try:
        deadline = time.monotonic() + 240
        while not any(f.stat().st_size for f in tmp_path.glob("runs/*/rounds.jsonl")):
            assert child.poll() is None, child.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)
        child.send_signal(number)
        _, err = child.communicate(timeout=120)
    finally:
        child.kill()
    assert child.returncode == 128 + number, err
    assert f"ffalora: stopped: 0 of 2 jobs done; go on with: ffalora {words[0]}" in err
    lines = history(tmp_path)
    assert {line["state"] for line in lines} == {"running", "stopped"}
    assert {line["exit_code"] for line in lines if "exit_code" in line} == {128 + number}
    runs = find_runs(tmp_path / "runs")
    before = {run: len(read_run(run).rounds) for run in runs}
    assert all((run / ".lock").exists() is False for run in runs)  # they left in good order
    again = start(words)
    out, err = again.communicate(timeout=400)
    assert again.returncode == 0, err
    assert "2 jobs: 2 done" in out
    for run in find_runs(tmp_path / "runs"):
        rounds = [record.round for record in read_run(run).rounds]
        assert rounds == list(range(151))
        assert before.get(run, 0) < 151


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    ["joblib hydra.launcher.n_jobs=2", "submitit_local", "ray hydra.launcher.num_cpus=1"],
)
def test_every_launcher_gives_the_results_of_single_runs(settings, tmp_path, launcher):
    name, *typed = launcher.split()
    words = ["sweep", *settings, "method=lora,ffa_lora", "seed=0,1", f"hydra/launcher={name}"]
    child = start([*words, *typed])
    out, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    assert "4 jobs: 4 done" in out
    alone = [s.replace("/runs", "/alone") for s in settings]
    assert main(["run", "--quiet", *alone, "method=lora", "seed=1"]) == 0
    (reference,) = find_runs(tmp_path / "alone")
    swept = tmp_path / "runs" / reference.name
    assert (swept / "adapter.safetensors").read_bytes() == (
        reference / "adapter.safetensors"
    ).read_bytes()


@pytest.mark.slow
def test_two_sweeps_share_runs(settings, tmp_path):
    words = ["sweep", *settings, "federation.rounds=30", "seed=0,1,2"]
    pair = [start(words) for _ in range(2)]
    codes = []
    for child in pair:
        _, err = child.communicate(timeout=300)
        assert child.returncode in (0, 3), err
        codes.append(child.returncode)
    assert 0 in codes or set(codes) == {3}
    lines = history(tmp_path)
    assert sorted(line["number"] for line in lines if line["state"] == "done") == [1, 2, 3]
    assert "failed" not in {line["state"] for line in lines}
    assert main(["sweep", "--quiet", *words[1:]]) == 0


@pytest.mark.slow
def test_a_search_of_two_real_trials_goes_on_to_three(settings, tmp_path, capsys):
    words = ["sweep", *settings, "hydra/sweeper=optuna", "privacy.max_grad_norm=choice(0.1,0.5)"]
    words += ["federation.local_lr=tag(log,interval(0.05,2))"]
    assert main([*words, "hydra.sweeper.n_trials=2"]) == 0
    out = capsys.readouterr().out
    assert "objective: the best eval/accuracy" in out
    assert "privacy.trials" in out
    values = {
        read_run(run).config["federation"]["local_lr"]: read_run(run).summary["best"]["value"]
        for run in find_runs(tmp_path / "runs")
    }
    assert len(values) == 2
    best = max(values.values())
    assert f"accuracy {100 * best:.1f} %" in out.splitlines()[-1]
    assert main([*words, "hydra.sweeper.n_trials=3"]) == 0
    assert len(find_runs(tmp_path / "runs")) == 3
    assert [line["state"] for line in history(tmp_path)] == ["running", "done"] * 3
