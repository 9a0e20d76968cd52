"""Commands that build on one another, played: from one's own CSV to a paper's figure and table."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from ffalora_cli.cli.main import main
from tests.docs.blocks import BLOCKS, cut_down, words_of
from tests.tiny import save_tiny_bert

TOPICS = ("World", "Sports", "Business", "Sci/Tech")
PLAYED = [block for block in BLOCKS if block.together]


def write_rows(file: Path) -> None:
    """Rows of four topics with a title and a body, all different."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["title", "body", "topic"])
        for n in range(120):
            topic = TOPICS[n % 4]
            rows.writerow(
                [f"{topic} today", f"what the film of the {n}th day says, and how", topic]
            )


@pytest.mark.parametrize("block", PLAYED, ids=lambda b: b.page)
def test_from_the_file_to_the_table(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_tiny_bert(tmp_path / "model")
    write_rows(tmp_path / "news.csv")
    for command in block.commands:
        command, _, target = command.partition(" > ")
        words = words_of(command)
        if words[0] == "sweep":
            words = [words[0], *cut_down(words[1:], tmp_path, tmp_path / "model"), "seed=0"]
        elif words[0] == "plan":
            words += ["privacy.accountant=rdp", "--no-measure"]  # as typed: seconds of calibration
        assert main(words) == 0, (command, capsys.readouterr().err[-500:])
        if target:
            Path(target).write_text(capsys.readouterr().out, encoding="utf-8")
    assert len(list(Path("runs").glob("*/summary.json"))) == 2
    assert Path("accuracy.svg").read_text(encoding="utf-8").rstrip().endswith("</svg>")
    table = Path("table.tex").read_text(encoding="utf-8")
    assert "tabular" in table and "lora" in table.lower() and table.count("\\\\") >= 3


def test_the_readme_is_played_too():
    assert [block.page for block in PLAYED] == ["README.md", "getting-started.md"]
