"""Jobs side by side have GPUs of their own; a list in the environment stands in for real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.stopping import StopFlag
from ffalora_cli.sweep.launchers import gpus
from ffalora_cli.sweep.launchers.base import open_launcher
from ffalora_cli.sweep.play import play_jobs
from tests.sweep.cases import Seen, gpus_of_jobs, most_at_once, quick, sweep_of

SHARED = "2 jobs at once share 1 GPU(s); hydra.launcher.{}=1 gives each its own"


def launched(folder, name, typed, *overrides):
    """The most jobs that saw each GPU at a time, and what the user was told."""
    record, jobs = sweep_of(folder / "runs", "seed=0,1,2,3", *overrides)
    seen, launch = Seen(), open_launcher(name, dict([typed.split("=")]) if typed else {})
    with gpus_of_jobs(folder) as told:
        statuses = play_jobs(quick(jobs), record, launch, seen, StopFlag())
    assert {status.state for status in statuses.values()} == {"done"}, statuses
    return most_at_once(told), seen.notes


@pytest.mark.parametrize(
    ("visible", "typed", "device", "most", "notes"),
    [
        ("3,GPU-x", "n_jobs=2", "auto", {"3": 1, "GPU-x": 1}, []),
        ("3,GPU-x", "n_jobs=-1", "cuda", {"3": 1, "GPU-x": 1}, []),
        ("7", "n_jobs=2", "auto", {"7": 2}, [SHARED.format("n_jobs")]),
        ("3,5", "n_jobs=1", "auto", {"3": 1, "5": 1}, []),  # one after another sees all, as ever
        ("3,5", "n_jobs=2", "cuda:1", {"3": 2, "5": 2}, []),  # its own choice among all
    ],
)
def test_basic(tmp_path, monkeypatch, visible, typed, device, most, notes):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert launched(tmp_path, "basic", typed, f"engine.device={device}") == (most, notes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("visible", "typed", "device", "most", "notes"),
    [
        ("3,5", "", "auto", {"3": 1, "5": 1}, []),
        ("7", "array_parallelism=2", "auto", {"7": 2}, [SHARED.format("array_parallelism")]),
        ("3,5", "gpus_per_node=2", "auto", {"3": 1, "5": 1}, []),
        ("3,5", "array_parallelism=2", "cuda:1", {"3": 2, "5": 2}, []),
        ("3,5", "gpus_per_node=0", "auto", {"": 2}, []),
    ],
)
def test_submitit_local(tmp_path, monkeypatch, visible, typed, device, most, notes):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("ffalora_cli.sweep.launchers.submitit_local.cores", lambda: 2)
    assert launched(tmp_path, "submitit_local", typed, f"engine.device={device}") == (most, notes)


def test_a_job_is_lent_the_gpus_with_the_fewest_others(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "a,b,c,d")
    _, jobs = sweep_of(tmp_path, "seed=0,1,2,3")
    _, (chosen,) = sweep_of(tmp_path, "engine.device=cuda:0", "name=chosen")
    one = gpus.Gpus(jobs)
    assert (one.room, one.lend(chosen)) == (4, "a,b,c,d")  # number 1 of another sweep, on a
    assert [one.lend(job) for job in jobs[1:]] == ["b", "c", "d"]
    one.take_back(jobs[2])
    assert one.lend(jobs[2]) == "c"
    two = gpus.Gpus(jobs, each=2)
    assert (two.room, [two.lend(job) for job in jobs[:3]]) == (2, ["a,b", "c,d", "a,b"])
    with pytest.raises(ConfigError, match=r"gpus_per_node=5: 4 GPU\(s\) are visible .* 4 or less"):
        gpus.Gpus(jobs, each=5)


def test_gpus_are_those_of_the_environment_or_what_torch_counts(monkeypatch):
    for typed, names in {"": [], "-1": [], "1, 0": ["1", "0"], "2,-1,3": ["2"]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", typed)
        assert gpus.visible() == names
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    gpus._counted.cache_clear()
    monkeypatch.setattr(Path, "glob", lambda self, name: iter([self / "nvidia0"]))
    monkeypatch.setattr(gpus, "_COUNT", "print(3)")
    assert gpus.visible() == ["0", "1", "2"]
    gpus._counted.cache_clear()
