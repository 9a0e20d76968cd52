"""``ffalora attack``: the table, the numbers in JSON, and what it refuses."""

from __future__ import annotations

import json

import pytest

from ffalora_cli.cli.main import main
from ffalora_cli.cli.verbs import attack as room


def test_table_and_json(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(room, "LABEL_BATCHES", 4)  # of 40: seconds each with a real model
    file = tmp_path / "attack.json"
    typed = ["attack", "invert", "--tokens", "12", "--rank", "8", "--json", str(file)]
    assert main([*typed, "seed=1", "privacy.accountant=rdp"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for said in ("worst case", "10 local steps", "not a guarantee", "bounds it", "noise"):
        assert said in text.replace("\n          ", " ")
    found = json.loads(file.read_text())
    cells = {(c["victim"], c["method"], c["private"], c["tokens"]): c for c in found["cells"]}
    assert len(cells) == 2 * 2 * 2
    for victim in ("surrogate", "model"):
        assert cells[victim, "lora", False, 12]["recovered"] >= 0.8
        assert cells[victim, "ffa_lora", False, 12]["recovered"] <= 0.05
        assert cells[victim, "lora", True, 12]["recovered"] <= 0.1
    assert {line["batches"] for line in found["label_counts"]} == {4}
    assert [p.name for p in tmp_path.iterdir()] == ["attack.json"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--tokens", "four"], "4,8,16"),
        (["--rank", "0"], "--rank"),
        (["--dp", "on", "privacy=none"], "--dp off"),
        (["privacy=client", "federation.weights=uniform"], "privacy=text"),
        (["--json", "no/such/file.json"], "no/such"),
        (["model=minilm", "methd=lora"], "method"),
        (["--methods", "lora,roloro"], "did you mean 'rolora'"),
        (["seed=0,1"], "several values"),
        (["experiment=dolly_small"], "task.kind=causal_lm"),
    ],
)
def test_bad_usage_is_one_line(typed, said, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["attack", *typed]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert len(line) <= 200
    assert list(tmp_path.iterdir()) == []
