"""Trouble in runs with real weights and real texts: what a person is told, what is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ffalora_cli import experiment
from ffalora_cli.cli.main import main
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import RunFailed
from ffalora_cli.records.reading import read_run

SMALL = [
    "task.max_length=16",
    "federation.local_steps=1",
    "federation.local_batch_size=4",
    "federation.eval_every=50",
    "evaluation.max_examples=64",
]


class Notes:
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    def started(self, facts):
        self.facts = facts

    def working(self, on, done, total): ...

    def round_done(self, record):
        pass

    def finished(self, summary):
        pass


@pytest.mark.slow
def test_an_exploding_run_ends_with_one_line_exit_code_one_and_its_records(tmp_path, capsys):
    """Both factors at a rate of 10^30: after the first round no gradient is finite any more."""
    typed = [*SMALL, "privacy=none", "method=lora", "federation.local_lr=1e30"]
    assert main(["run", *typed, "federation.rounds=9", f"paths.runs={tmp_path}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "diverged: half of all gradients are not finite for 3 rounds" in line
    assert "federation.local_lr=1e+30" in line and "try federation.local_lr=0.4" in line
    (folder,) = tmp_path.iterdir()
    assert not (folder / "summary.json").exists()
    assert (failure := read_run(folder).failure) and failure.reason in line
    rounds = read_run(folder).rounds
    assert failure.round == rounds[-1].round
    assert rounds[0].round == 0 and 3 <= rounds[-1].round < 9
    assert all(v.isfinite().all() for v in load_file(folder / "adapter.safetensors").values())


def test_dropouts_stragglers_and_median_end_to_end(tmp_path):
    typed = [
        *SMALL,
        "federation.rounds=4",
        "federation.combination=median",
        f"paths.runs={tmp_path}",
    ]
    typed += ["federation.dropout_rate=0.4", "federation.straggler_rate=0.3"]
    (job,) = plan(typed)
    seen = Notes()
    summary = experiment.run(job, seen)
    assert any("cannot tell them apart" in note for note in seen.notes)
    rounds = read_run(summary["run_dir"]).rounds[1:]
    dropped = [r.metrics["train/dropped_clients"] for r in rounds]
    assert [3 - len(r.clients) for r in rounds] == dropped
    assert sum(dropped) > 0 and sum(r.metrics["train/late_uploads"] for r in rounds) > 0
    statement = json.loads(Path(summary["run_dir"], "privacy.json").read_text())
    assert statement["epsilon_max"]["spent"] < statement["epsilon_max"]["planned"]


def test_a_rejection_is_in_the_records(tmp_path, monkeypatch):
    from ffalora_cli.federation.simulation import Simulation

    started = Simulation.__post_init__

    def with_an_adversary(self):
        started(self)
        self.corrupt = lambda round, client, sent: sent[:-1] if client == 1 else sent

    monkeypatch.setattr(Simulation, "__post_init__", with_an_adversary)
    (job,) = plan([*SMALL, "federation.rounds=2", "privacy=none", f"paths.runs={tmp_path}"])
    seen = Notes()
    summary = experiment.run(job, seen)
    records = read_run(summary["run_dir"]).rounds
    for record in records[1:]:
        assert record.rejected == ({"client": 1, "reason": "unreadable"},)
    assert sum("client 1 is left out" in note for note in seen.notes) == 1
    assert any("2 uploads of 1 clients were rejected" in note for note in seen.notes)


def test_a_failed_run_is_one_line_without_traceback(tmp_path, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise RunFailed("round 7: diverged: " + "because " * 20 + "so")

    monkeypatch.setattr(experiment, "run", fail)
    assert main(["run", f"paths.runs={tmp_path}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ffalora: run failed: round 7: diverged: ") and "because so" in line
    assert list(tmp_path.iterdir()) == []
