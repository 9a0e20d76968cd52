"""Started several times by torchrun: run and resume are shared, every other verb says no, once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ffalora_cli.cli.main import main
from ffalora_cli.cli.place import Place
from ffalora_cli.config.errors import ConfigError
from scripts.chaos.workload import overrides, result, tiny_model
from tests import ROOT

VERBS = (["sweep", "seed=0,1"], ["run", "-m", "seed=0,1"], ["plan"], ["ls", "tasks"])


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_other_verbs_are_of_one_process(words, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        assert main(words) == 2
        said = capsys.readouterr()
        assert said.out == "" and len(said.err.splitlines()) == lines
        if lines:
            assert "works in one process, and WORLD_SIZE=2 says that there are more" in said.err


def test_a_place_needs_both_numbers():
    assert Place.of({"WORLD_SIZE": "4"}) == Place(0, 1)
    assert Place.of({"WORLD_SIZE": "4", "RANK": "3"}) == Place(3, 4)
    for rank, world in (("4", "4"), ("x", "4"), ("-1", "2"), ("0", "0")):
        with pytest.raises(ConfigError, match=f"RANK={rank} and WORLD_SIZE={world}"):
            Place.of({"WORLD_SIZE": world, "RANK": rank})


@pytest.mark.slow
def test_torchrun_twice_gives_one_result_and_one_voice(tmp_path):
    """The real launcher: twice the same bits, one process speaks, and no process is left."""
    settings = [*overrides(tiny_model(tmp_path / "model"), "merging"), "engine.threads=1"]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    start += ["-m", "ffalora_cli", "run", "--quiet", *settings]
    for name in ("one", "two"):
        done = subprocess.run(
            [*start, f"paths.runs={tmp_path / name}"],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(str(tmp_path / name)) == 1
    assert len({result(next((tmp_path / name).iterdir())) for name in ("one", "two")}) == 1
