"""``ffalora compare`` on runs that were really made: what a person sees, and every wrong word."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from ffalora_cli.cli.main import main
from ffalora_cli.records.reading import find_runs
from tests.made_runs import write_run


@pytest.fixture(scope="module")
def real(tiny_bert, tmp_path_factory):
    """Two methods, two seeds of one tiny round on packaged rows: four runs."""
    root = tmp_path_factory.mktemp("real")
    typed = [
        "privacy.accountant=rdp",
        "privacy.epsilon_target=3",
        "debug=tiny",
        "model=auto",
        f"model.source={tiny_bert}",
    ]
    for pair in (f"method={m} seed={s}" for m in ("lora", "ffa_lora") for s in (0, 1)):
        assert main(["run", "--quiet", *pair.split(), *typed, f"paths.runs={root}"]) == 0
    return root


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Runs with chosen numbers."""
    folder = tmp_path_factory.mktemp("four")
    for method, finals in (("lora", (0.5, 0.54)), ("ffa_lora", (0.6, 0.61))):
        for seed, final in enumerate(finals):
            write_run(folder, [f"method={method}", f"seed={seed}"], [0.2, final])
    return folder


@pytest.fixture
def written(four, tmp_path, monkeypatch):
    """The same in ``runs`` of the working folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(four, tmp_path / "runs")
    return tmp_path


def test_real_runs_side_by_side(real, capsys) -> None:
    capsys.readouterr()
    assert main(["compare", "--runs", str(real), "--format", "json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["by"] == ["method"]
    lora, ffa = content["rows"]
    assert (ffa["settings"]["method"], lora["settings"]["method"]) == ("ffa_lora", "lora")
    for row in (ffa, lora):
        assert len(row["runs"]) == row["metrics"]["eval/accuracy"]["n"] == 2
        values = []
        for run in row["runs"]:
            summary = json.loads((real / run / "summary.json").read_text())
            values.append(summary["final"]["eval/accuracy"])
        assert row["metrics"]["eval/accuracy"]["mean"] == pytest.approx(sum(values) / 2)
    assert ffa["metrics"]["eval/accuracy"]["minus_baseline"]["pairs"] == ["seed 0", "seed 1"]
    assert ffa["uplink_bytes"] < lora["uplink_bytes"]
    assert ffa["epsilon"] == pytest.approx(3.0, rel=0.01)  # as asked: no text is on two clients
    assert any("unit text, add/remove one" in note for note in content["notes"])


def test_overrides_of_each_job_are_in_its_manifest(real) -> None:
    for folder in find_runs(real):
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["overrides"][0] in ("method=lora", "method=ffa_lora")
        assert "debug=tiny" in manifest["overrides"]


def test_piped_table_has_no_colours_and_one_line_a_row(written, capsys) -> None:
    assert main(["compare"]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    rows = [line for line in text.splitlines() if re.match(r"(FFA-)?LoRA ", line)]
    assert len(rows) == 2
    assert "60.50 ± 6.35 *" in rows[1] and "+8.50 ± 19.06" in rows[1]
    assert "baseline" in rows[0]


def test_on_a_terminal_of_80_columns_no_line_is_longer(written, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    write_run(written / "runs", ["method=fedsvd", "privacy.epsilon_target=3"], [0.2, 0.7])
    assert main(["compare"]) == 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, plain.splitlines())) <= 80
    assert "…" not in plain  # nothing was cut away


def test_formats_and_selectors_reach_the_table(written, capsys) -> None:
    assert main(["compare", "method=lora", "--format", "csv", "--at", "round=0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[1].startswith("lora,0.2,")
    assert main(["compare", "--by", "method.name", "--metric", "loss", "--format", "md"]) == 0
    assert (
        "| method | loss | sd | vs LoRA | n | ε spent | up B | s a run |" in capsys.readouterr().out
    )


def test_a_word_that_is_typed_twice_is_one(written, capsys) -> None:
    once, twice = ["--by", "method", "--metric", "accuracy"], ["--by", "method,method"]
    for words in (once, [*twice, "--metric", "accuracy,accuracy"]):
        assert main(["compare", "--format", "csv", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]


def test_a_table_for_a_paper_in_one_line(written, capsys) -> None:
    words = ["compare", "method=ffa_lora,lora", "--pivot", "method:task", "--no-notes"]
    words += ["--names", "ffa_lora=Ours", "--caption", "It works", "--label", "tab:it"]
    assert main([*words, "--format", "latex"]) == 0
    text = capsys.readouterr().out
    assert text.isascii() and r"\label{tab:it}" in text and r"\footnotesize" not in text
    rows = text.split(r"\midrule")[1].splitlines()[1:3]
    assert [row.split(" & ")[0] for row in rows] == ["Ours", "LoRA"]  # as they were typed
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[0] == "It works"
    assert main(["compare", "--at", "accuracy=55%", "--format", "md"]) == 0
    assert "| LoRA | 0/2 | - | - |" in capsys.readouterr().out


def test_a_page_does_without_seconds(written, capsys) -> None:
    assert main(["compare", "--format", "latex"]) == 0
    text = capsys.readouterr().out
    assert "s a run" not in text and r"up " in text and r"\toprule" in text


def test_a_narrow_screen_does_without_seconds_and_says_so(written, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["compare"]) == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "not shown for want of room: s a run" in text and "60.50 ± 6.35 *" in text


def test_published_without_a_run_of_ours(written, capsys) -> None:
    assert main(["compare", "experiment=heterogeneity", "--published"]) == 0
    text = capsys.readouterr().out
    assert "paper S" in text and "not run" in text
    assert main(["compare", "--published", "experiment=rank", "--runs", "nowhere"]) == 0
    assert "its values were not found" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--format", "jsn"], "did you mean 'json'?"),
        (["--at", "bst"], "--at='bst'"),
        (["--at", "round=9"], "rounds are 0, 1"),
        (["--metric", "accuray"], "did you mean 'eval/accuracy'?"),
        (["--by", "metod"], "did you mean 'method'?"),
        (["--over", "sed"], "did you mean 'seed'?"),
        (["--baseline", "method=fedsvd"], "none of the rows"),
        (["--baseline", "lora"], "write --baseline method=lora"),
        (["--published"], "say which table"),
        (["--published", "experiment=tabel1"], "did you mean 'table1'?"),
        (["--from", "wand"], "did you mean 'wandb'?"),
        (["--from", "wandb"], "ENTITY/PROJECT"),
        (["--from", "wandb", "me/mine", "runs/x"], "chosen by key=value"),
        (["--from", "wandb", "me/mine", "experiment=table1"], "local runs alone"),
        (["--pivot", "method"], "--pivot method:partition.dirichlet_alpha"),
        (["--pivot", "method:metod"], "did you mean 'method'?"),
        (["--pivot", "method:task", "--by", "task"], "leave --by out"),
        (["--pivot", "method:task", "--best", "colum"], "did you mean 'column'?"),
        (["--names", "rwa"], "paper or raw"),
        (["--at", "acuracy=0.8"], "did you mean 'accuracy'?"),
        (["--at", "accuracy=80"], "write --at accuracy=0.8, or 80%"),
        (["--at", "loss=0.1", "--published"], "leave one out"),
        (["--publishd"], "did you mean --published?"),
        (["method=lorra"], "did you mean 'lora'?"),
        (["--runs", "nowhere"], "holds no runs"),
    ],
)
def test_wrong_words_are_one_line_and_exit_code_2(written, capsys, words, answer) -> None:
    assert main(["compare", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert answer in captured.err
    assert captured.err.count("\n") == 1
