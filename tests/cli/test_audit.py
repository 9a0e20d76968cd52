"""``ffalora audit`` as typed: exit codes, table, JSON, refusals, a run's records."""

from __future__ import annotations

import json
import shutil

import pytest

from ffalora_cli.audit.mutants import of_step
from ffalora_cli.audit.mutants import run as mutants
from ffalora_cli.audit.mutants.seams import Mutant, replaced
from ffalora_cli.audit.recorded import recorded_checks
from ffalora_cli.audit.run import client_sizes, plan_of
from ffalora_cli.cli.main import main
from ffalora_cli.config.build import build
from ffalora_cli.records.reading import read_run
from tests.audit.subjects import battery_of, noise_part
from tests.tiny import save_tiny_bert

SMALL = [
    "debug=tiny",
    "federation.num_clients=2",
    "head.mode=trained",
    "privacy.epsilon_target=null",
    "privacy.noise_multiplier=1.0",
]
QUICK = ["--tier", "mechanism", "--minutes", "0.01"]


def test_a_clean_run_passes_and_everything_is_in_the_json(tmp_path, capsys):
    file = tmp_path / "audit.json"
    assert main(["audit", *SMALL, *QUICK, "--json", str(file)]) == 0
    text = capsys.readouterr().out
    for words in ("claim ", "noise sd per tensor", "step-level", "tests passed", "cannot prove"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 80
    found = json.loads(file.read_text())
    assert found["passed"] and found["failures"] == []
    assert all(check["passed"] for check in found["checks"])
    assert found["bounds"][0]["epsilon_lower"] < found["claim"]


def test_a_broken_mechanism_fails_with_exit_code_1(capsys):
    (weak,) = (m for m in of_step.MUTANTS if m.name == "noise × 0.95")
    with replaced(weak.changes):
        assert main(["audit", *SMALL, *QUICK]) == 1
    text = capsys.readouterr().out
    assert "FAILED    noise sd per tensor" in text
    assert "FAILED: noise sd per tensor" in text


def test_mutants_are_reported_and_a_missed_one_fails(monkeypatch, capsys):
    (weak,) = (m for m in of_step.MUTANTS if m.name == "noise × 0.95")
    harmless = Mutant("nothing broken", "noise sd per tensor", {})
    monkeypatch.setattr(mutants, "MUTANTS", (weak, harmless))
    monkeypatch.setattr(mutants, "run_checks", battery_of(noise_part))
    assert main(["audit", *SMALL, "--mutants"]) == 1
    text = capsys.readouterr().out
    assert "caught  noise × 0.95" in text
    assert "MISSED  nothing broken" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "of 2" in text


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished private run."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(["run", *SMALL, "federation.rounds=2", f"paths.runs={folder}", "--quiet"]) == 0
    (path,) = folder.iterdir()
    return path


def test_a_run_is_audited_with_its_records_and_nothing_is_written_into_it(run, tmp_path, capsys):
    """A line that another process is just writing stays as it is."""
    copy = tmp_path / run.name
    shutil.copytree(run, copy)
    with open(copy / "privacy_ledger.jsonl", "ab") as stream:
        stream.write(b'{"round":3,"st')
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    assert main(["audit", str(copy), *QUICK]) == 0
    text = capsys.readouterr().out
    for name in ("recorded charges", "recorded steps", "recorded epsilon", "recorded uploads"):
        assert f"passed    {name}" in text
    assert {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("file", "old", "new", "check"),
    [
        ("privacy_ledger.jsonl", '{"round":2,"steps":1', '{"round":3,"steps":1', "charges"),
        ("privacy_ledger.jsonl", '{"round":2,"steps":1', '{"round":2,"steps":2', "charges steps"),
        ("communication.jsonl", '"head": ', '"head": 9', "uploads"),
        ("privacy.json", '"spent": ', '"spent": 0.01, "was": ', "epsilon"),
    ],
)
def test_records_that_do_not_fit_the_plan_are_found(run, tmp_path, file, old, new, check):
    copy = tmp_path / run.name
    shutil.copytree(run, copy)
    config = build(read_run(copy).config)
    plan = plan_of(config, client_sizes(config))
    assert all(found.passed for found in recorded_checks(copy, config, plan))
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new))
    failed = {c.name for c in recorded_checks(copy, config, plan) if not c.passed}
    assert failed >= {f"recorded {word}" for word in check.split()}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["privacy=none"], "privacy.unit=none"),
        (["engine=reference"], "engine=stacked"),
        (["--tier", "mechanisms"], "did you mean 'mechanism'"),
        (["--minutes", "0"], "should be above 0"),
        (["no-such-run"], "was not found"),
        (["--json", "no/such/folder.json"], "folder is not there"),
    ],
)
def test_what_cannot_be_audited_is_refused_in_one_line(words, expected, capsys, tmp_path):
    assert main(["audit", *words, "--runs", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


def test_a_ledger_of_another_mechanism_is_refused(run, tmp_path, capsys):
    copy = tmp_path / run.name
    shutil.copytree(run, copy)
    ledger = copy / "privacy_ledger.jsonl"
    ledger.write_text(
        ledger.read_text().replace('"noise_multiplier":1.0', '"noise_multiplier":2.0')
    )
    assert main(["audit", str(copy), *QUICK]) == 2
    assert "not the mechanism" in capsys.readouterr().err


@pytest.mark.slow
def test_what_leaves_is_compared_as_typed_and_a_leak_fails(tmp_path, capsys, monkeypatch):
    pytest.importorskip("peft")
    from ffalora_cli.report.page import page

    model = save_tiny_bert(tmp_path / "model")
    typed = ["debug=tiny", "model=auto", f"model.source={model}", "task.max_length=16"]
    file = tmp_path / "audit.json"
    assert main(["audit", "--tier", "release", *typed, "--json", str(file)]) == 0
    text = capsys.readouterr().out
    assert "PASSED: nothing leaves" in text and "leaves: model card, unit changed" in text
    assert max(map(len, text.splitlines())) <= 80
    assert json.loads(file.read_text())["failures"] == []
    monkeypatch.setattr(page, "released", lambda run: run)  # the page as it once was
    assert main(["audit", "--tier", "release", *typed, "privacy.noise=secure"]) == 1
    assert "FAILED    leaves: report page, unit removed" in capsys.readouterr().out


def test_a_run_without_privacy_has_nothing_to_audit(capsys):
    assert main(["audit", "--tier", "release", "debug=tiny", "privacy=none"]) == 2
    assert "promises nothing" in capsys.readouterr().err
