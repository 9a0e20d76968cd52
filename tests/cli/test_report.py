"""``ffalora report`` from a command line to a page."""

from __future__ import annotations

import sys

import pytest

from ffalora_cli.cli.main import main
from tests.made_runs import made_run

SCORES = [0.2, 0.4, 0.5, 0.7]


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made_run(tmp_path / "runs", ["seed=0"], SCORES)
    made_run(tmp_path / "runs", ["method=lora"], SCORES)
    return tmp_path


def test_a_page_is_written_and_said(runs, capsys):
    assert main(["report", "runs", "-o", "page.html"]) == 0
    assert "page.html (2 runs" in capsys.readouterr().out
    text = (runs / "page.html").read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert "ffa_lora, lora on bbc_news" in text


@pytest.mark.parametrize(
    "words, said",
    [
        (["-o", "page.pdf"], "try page.html"),
        (["-o", "nowhere/page.html"], "make it first"),
        (["--metric", "acuracy"], "accuracy"),
        (["--wandb", "project"], "ENTITY/PROJECT"),
        (["--runs", "elsewhere"], "elsewhere"),
    ],
)
def test_what_cannot_be_is_one_line(runs, capsys, words, said):
    assert main(["report", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not list(runs.glob("*.html"))


def test_without_the_part_for_wandb_one_line_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports", None)
    assert main(["report", "--wandb", "me/project"]) == 2
    assert "pip install 'ffalora[trackers]'" in capsys.readouterr().err
