"""``ls runs``: states from folders as they really are, filters, order, and both formats."""

from __future__ import annotations

import json

import pytest

from ffalora_cli.cli.main import main
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import RunFailed
from ffalora_cli.records.lock import FolderLock
from ffalora_cli.records.reading import read_run
from ffalora_cli.records.run_directory import open_run, round_lines
from ffalora_cli.records.state import clear_failure, progress_of, write_failure
from ffalora_cli.records.summary import summarize
from ffalora_cli.types import RoundRecord


def write(override: str, created: str, last: int) -> str:
    """A run of 4 rounds whose records end after ``last``; finished after the fourth."""
    job = plan([*override.split(), "federation.rounds=4"])[0]
    records = [
        RoundRecord(
            r,
            {
                "eval/accuracy": r / 10,
                "comm/uplink_bytes_total": 1000.0 * r,
                "privacy/epsilon_spent": float(r),
            },
        )
        for r in range(last + 1)
    ]
    with open_run("runs", job.config.name, job.signature).claim() as directory:
        manifest = {"schema_version": 1, "created": created, "signature": job.signature}
        directory.write_manifest(manifest | {"command": ["ffalora", "run", *override.split()]})
        directory.write_config(job.resolved)
        for record in records:
            directory.append(round_lines(record))
        if last == 4:
            directory.write_summary(summarize(records, "eval/accuracy", 75.0))
    return directory.path.name


@pytest.fixture
def names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return {
        "done": write("seed=0", "2026-11-20T10:00:00+00:00", 4),
        "stopped": write("seed=1 method=lora", "2026-11-22T10:00:00+00:00", 2),
        "failed": write("seed=2", "2026-11-21T10:00:00+00:00", 1),
        "running": write("seed=3", "2026-11-23T10:00:00+00:00", 3),
    }


@pytest.fixture
def there(names, tmp_path):
    write_failure(tmp_path / "runs" / names["failed"], 1, RunFailed("round 1: diverged"))
    lock = FolderLock(tmp_path / "runs" / names["running"])
    yield names
    lock.release()


def listed(capsys, *words):
    assert main(["ls", "runs", *words, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == 1
    return found["runs"]


def test_states_newest_first(there, capsys):
    rows = listed(capsys)
    order = ["running", "stopped", "failed", "done"]
    assert [row["state"] for row in rows] == order
    assert [row["run"] for row in rows] == [there[state] for state in order]
    assert [row["round"] for row in rows] == [3, 2, 1, 4]
    done = rows[-1]
    assert (done["value"], done["epsilon_spent"], done["uplink_bytes"]) == (0.4, 4.0, 4000.0)
    assert done["seconds"] == 75.0 and rows[0]["seconds"] is None


def test_the_table(there, monkeypatch, capsys):
    assert main(["ls", "runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "running 3/4" in lines[1] and "stopped 2/4" in lines[2] and "failed 1/4" in lines[3]
    assert lines[4].split() == ["failed:", "round", "1:", "diverged"]
    assert lines[0].split()[-3:] == ["method", "seed", "run"] and max(map(len, lines)) <= 80
    words = lines[5].split()
    assert words[:2] == ["11-20", "10:00"]
    assert words[-3:] == ["ffa_lora", "0", there["done"].rpartition("-")[2]]
    assert "40.0 % 4.00 4.0 kB" in " ".join(words)
    monkeypatch.setenv("COLUMNS", "140")
    assert main(["ls", "runs", "method=ffa_lora"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[-3:] == ["time", "seed", "run"]
    assert lines[-1].split()[-3:] == ["1:15", "0", there["done"]]


def test_a_setting_that_no_column_is_left_for_is_named(names, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["ls", "runs"]) == 0
    text = capsys.readouterr().out
    assert "too narrow for: method, seed; --format json" in text
    settings = [row["settings"] for row in listed(capsys)]
    assert settings[0] == {"method": "ffa_lora", "seed": "3"}


@pytest.mark.parametrize(
    ("words", "states"),
    [
        (["method=lora"], ["stopped"]),
        (["seed=0,2"], ["failed", "done"]),
        (["--state", "running"], ["running"]),
        (["method=ffa_lora", "--state", "done"], ["done"]),
        (["bbc_news-ffa"], ["running", "failed", "done"]),
    ],
)
def test_filters(there, words, states, capsys):
    assert [row["state"] for row in listed(capsys, *words)] == states


def test_slips_and_an_empty_folder(there, capsys):
    assert main(["ls", "runs", "method=loar"]) == 2
    assert "'lora'" in capsys.readouterr().err
    assert main(["ls", "runs", "--state", "dead"]) == 2
    assert main(["ls", "runz"]) == 2
    assert "'runs'" in capsys.readouterr().err
    assert main(["ls", "runs", "--runs", "nowhere"]) == 0
    assert capsys.readouterr().out == "no runs\n"


def test_a_run_that_goes_on_after_a_failure_is_not_failed(there, tmp_path):
    folder = tmp_path / "runs" / there["failed"]
    clear_failure(folder)
    assert progress_of(folder).state == "stopped" and read_run(folder).failure is None
