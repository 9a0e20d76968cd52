"""The Trackio tracker, read back from its own local store."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys

import pytest

pytest.importorskip("trackio")

RESUMES = """
import sys
from pathlib import Path
from ffalora_cli.records.trackers.base import open_tracker
from tests.trackers import facts, send, tracking
for last in map(int, sys.argv[2:]):
    tracker = open_tracker(tracking("trackio"))
    send(tracker, facts(Path(sys.argv[1])), last)
    for note in tracker.notes:
        print(note)
"""
LOOK = "Trackio: look with: trackio show --project demo-project\n"


@pytest.fixture
def play(tmp_path, request):
    """Resumes in a process of their own: Trackio reads TRACKIO_DIR when it is imported."""

    def run(*last, before=""):
        environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "store"), "HF_HUB_OFFLINE": "1"}
        for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
            environment.pop(name, None)
        result = subprocess.run(
            [sys.executable, "-c", before + RESUMES, str(tmp_path), *map(str, last)],
            capture_output=True,
            text=True,
            cwd=request.config.rootpath,
            env=environment,
            timeout=60,
        )
        assert result.returncode == 0 and result.stderr == "", result.stderr
        return result.stdout

    return run


def rows(folder):
    """Steps, metrics and configs in the store, read with sqlite alone."""
    with sqlite3.connect(folder / "store" / "demo-project.db") as store:
        metrics = store.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id")
        points = [(name, step, json.loads(text)) for name, step, text in metrics.fetchall()]
        configs = [json.loads(c) for (c,) in store.execute("SELECT config FROM configs")]
    return points, configs


def test_rounds_arrive_once_over_resumes_and_nothing_private(tmp_path, play) -> None:
    assert play(1, 1, 4, 6) == 4 * LOOK  # and nothing of what Trackio would print
    points, (config,) = rows(tmp_path)
    assert [(name, step) for name, step, _ in points] == [("demo-abc", n) for n in range(7)]
    for _, step, metrics in points:
        assert metrics["eval/accuracy"] == 0.5 + step / 16
        assert set(metrics) == {"eval/accuracy", "comm/uplink_bytes"}
    assert config["privacy"]["epsilon_target"] == 6.0 and "paths" not in config
    assert config["model"]["source"] == "minilm"
    assert config["_Group"] == "sst2-minilm-label_mix-example_eps6"
    for file in (tmp_path / "store").rglob("*.db*"):
        assert b"someone" not in file.read_bytes() and b"24526" not in file.read_bytes()


def test_a_store_that_does_not_take_rounds_is_noticed(tmp_path, play) -> None:
    broken = """
from trackio.sqlite_storage import SQLiteStorage
def refuse(**_): raise OSError("disk full")
SQLiteStorage.bulk_log = staticmethod(refuse)
"""
    said = play(3, before=broken)
    assert said.startswith("Trackio tracker off: its store ends with round None instead of 3")
    assert said.count("\n") == 1
    assert play(3) == LOOK  # and the next resume sends them all
    assert [step for _, step, _ in rows(tmp_path)[0]] == [0, 1, 2, 3]
