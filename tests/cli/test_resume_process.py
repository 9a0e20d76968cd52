"""The real command: killed or asked to stop, told how to go on, and gone on with."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from ffalora_cli.cli.main import main
from ffalora_cli.records.reading import read_run
from scripts.chaos import process as chaos_process
from scripts.chaos.workload import overrides, result, rounds_on_disk, tiny_model

MINILM = ["federation.rounds=3", "federation.local_steps=2", "federation.local_batch_size=8"]
MINILM += ["task.max_length=16", "task.holdout_fraction=0.03", "privacy.accountant=rdp"]


@pytest.mark.slow
def test_minilm_killed_in_a_round_and_gone_on_with(tmp_path):
    process = chaos_process.Process(tmp_path, MINILM)
    runs = tmp_path / "killed"
    child = process.start(runs)
    while not any(rounds_on_disk(run) == 2 for run in chaos_process._folders(runs)):
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert process.finish(runs) == process.whole


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kills", "signals"])
def test_broken_at_random_moments(kind):
    row = getattr(chaos_process, kind)(3)
    assert row.good == row.tried == 3, row.failures


@pytest.fixture
def settings(tmp_path):
    model = tiny_model(tmp_path / "model")
    return [*overrides(model, "private", rounds=3), f"paths.runs={tmp_path}"]


def test_a_signal_ends_with_the_command_that_goes_on(settings, tmp_path, monkeypatch, capsys):
    """In this process: the handler, the message, exit 143, then ``resume`` by that very command."""
    from ffalora_cli.experiment.session import Session

    commit = Session.commit

    def and_stop(session, record):
        commit(session, record)
        if record.round == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Session, "commit", and_stop)
    assert main(["run", "--quiet", *settings]) == 143
    assert signal.getsignal(signal.SIGTERM) == handler
    monkeypatch.undo()
    (line,) = capsys.readouterr().err.splitlines()
    message, _, command = line.rpartition(": ")
    assert message == "ffalora: stopped: rounds to 1 are on disk; go on with"
    verb, run = command.removeprefix("ffalora ").split()
    assert main([verb, run, "federation.local_lr=3"]) == 2
    assert "federation.local_lr 0.5 -> 3.0" in capsys.readouterr().err
    assert main([verb, run, "--quiet", "engine.threads=1"]) == 0
    assert [record.round for record in read_run(run).rounds] == [0, 1, 2, 3]
    assert main(["run", "--quiet", *settings]) == 0
    assert "done before" in capsys.readouterr().out
    assert main(["run", "--quiet", "--again", *settings]) == 0
    assert result(Path(f"{run}-2")) == result(Path(run))
