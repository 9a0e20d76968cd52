"""``ffalora plot`` from a command line to files."""

from __future__ import annotations

import csv

import pytest

from ffalora_cli.cli.main import main
from tests.made_runs import made_run

SCORES = [0.2, 0.4, 0.5, 0.7]


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made_run(tmp_path / "runs", ["seed=0"], SCORES)
    made_run(tmp_path / "runs", ["seed=1"], [0.3, 0.3, 0.6, 0.8])
    made_run(tmp_path / "runs", ["method=lora"], SCORES, per_round=2e6)
    return tmp_path


def test_curves_are_written_as_three_pictures_and_their_numbers(runs, capsys):
    assert main(["plot", "--x", "total_bytes", "-o", "out/a.pdf", "--width", "page"]) == 0
    text = capsys.readouterr().out
    assert "mean of 1 to 2 runs a line" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert (runs / "out/a.png").read_bytes().startswith(b"\x89PNG")
    assert b'width="486pt"' in (runs / "out/a.svg").read_bytes()  # 6.75 inches
    assert b"/MediaBox [ 0 0 486 " in (runs / "out/a.pdf").read_bytes()
    rows = list(csv.DictReader((runs / "out/a.csv").open()))
    assert {row["group"] for row in rows} == {"FFA-LoRA", "LoRA"}
    assert rows[0]["group"] == "LoRA"  # the baseline first, as in a table
    assert max(float(row["total_bytes"]) for row in rows) == 18e6


def test_pareto_and_a_selection(runs, capsys):
    assert main(["plot", "method=lora,ffa_lora", "--kind", "pareto"]) == 0
    rows = list(csv.DictReader((runs / "pareto.csv").open()))
    assert [(row["group"], row["best"]) for row in rows] == [("LoRA", "0"), ("FFA-LoRA", "1")]
    assert main(["plot", "method=ffa_lora,lora", "--kind", "pareto"]) == 0
    typed = csv.DictReader((runs / "pareto.csv").open())
    assert [row["group"] for row in typed] == ["FFA-LoRA", "LoRA"]
    assert "pareto.png" in capsys.readouterr().out


def test_the_partition_of_a_run_is_the_one_that_partition_prints(runs, capsys):
    assert main(["plot", "method=lora", "--kind", "partition", "-o", "p.png"]) == 0
    assert "no part of a privacy guarantee" in " ".join(capsys.readouterr().out.split())
    rows = list(csv.DictReader((runs / "p.csv").open()))
    assert main(["partition", "privacy=none", "--figure", "q.png"]) == 0  # the same split
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    for row in rows:
        words = [f"{int(value):,}" for value in row.values()]
        assert words in printed


@pytest.mark.parametrize(
    "words, said",
    [
        (["--y", "eval/acuracy"], "did you mean 'eval/accuracy'?"),
        (
            ["--kind", "clients"],
            "clients were not scored one by one; run with federation.eval_clients",
        ),
        (["--kind", "mechanism"], "run with diagnostics=mechanism"),
        (["-o", "a.jpg"], "try a.pdf"),
        (["--width", "colum"], "--width 5.5"),
        (["--width", "0.5"], "2 to 20 inches"),
        (["--by", "metod"], "metod"),
        (["--kind", "pareto", "--x", "epsilon"], "uplink_bytes, total_bytes"),
        (["nothing"], "nothing"),
        (["--x", "time"], "--x"),
    ],
)
def test_what_cannot_be_is_one_line(runs, capsys, words, said):
    assert main(["plot", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not list(runs.glob("*.png"))
