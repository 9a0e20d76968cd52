"""``validate``: signatures as runs have them, what exists, every refusal as one line."""

from __future__ import annotations

import json

import pytest
import yaml

from ffalora_cli.cli.main import main
from ffalora_cli.compose.jobs import plan
from ffalora_cli.records.lock import FolderLock


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_job_and_its_signature(here, capsys):
    assert main(["validate", "seed=3"]) == 0
    assert plan(["seed=3"])[0].signature in capsys.readouterr().out
    assert list(here.iterdir()) == []


def test_a_sweep_says_what_exists(here, capsys):
    jobs = plan(["method=lora,ffa_lora", "seed=0,1"], True)
    for job, state in zip(jobs, ("done", "stopped", "running"), strict=False):
        folder = here / "runs" / f"{job.config.name}-{job.signature}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        if state == "done":
            (folder / "summary.json").write_text("{}")
        if state == "running":
            lock = FolderLock(folder)
    words = ["validate", "-m", "method=lora,ffa_lora", "seed=0,1", "name=${task.name}-x"]
    assert main([*words[:-1], "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == 1
    assert [j["signature"] for j in found["jobs"]] == [j.signature for j in jobs]
    assert [j["state"] for j in found["jobs"]] == ["done", "stopped", "running", "new"]
    lock.release()
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "4 jobs: 4 new" in lines[0] and len(lines) == 5  # another name, other folders
    assert max(map(len, lines)) <= 80


def test_a_file_is_a_whole_configuration(here, capsys):
    job = plan(["federation.rounds=7"])[0]
    (here / "config.yaml").write_text(yaml.safe_dump(job.resolved))
    assert main(["validate", "config.yaml"]) == 0
    assert job.signature in capsys.readouterr().out
    assert main(["validate", "config.yaml", "federation.rounds=9"]) == 0
    changed = plan(["federation.rounds=9"])[0].signature
    assert changed in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words", "said"),
    [
        (None, ["seeed=1"], "'seed'"),
        (None, ["privacy.unit=none"], "privacy.epsilon_target"),
        (None, ["-m", "seed=0,-1"], "job 2 of 2"),
        (None, ["gone.yaml"], "gone.yaml"),
        ("a: [", ["x.yaml"], "x.yaml, line 1: expected"),
        ("[]", ["x.yaml"], "x.yaml, line 1: is a list, not keys"),
        ("seed: 1", ["x.yaml"], "missing"),
        ("seed: 1", ["x.yaml", "-m"], "one file"),
    ],
)
def test_refusals(here, content, words, said, capsys):
    if content is not None:
        (here / "x.yaml").write_text(content)
    assert main(["validate", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and len(line) <= 220
