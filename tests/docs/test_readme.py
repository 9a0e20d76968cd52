"""What the README tells people to type composes, and the names it lists are the names there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ffalora_cli.cli import catalogue
from ffalora_cli.cli.jobs import plan
from ffalora_cli.cli.main import main

ROOT = Path(__file__).parents[2]
README = ROOT.joinpath("README.md").read_text(encoding="utf-8")
TEXTS = [README, *(p.read_text(encoding="utf-8") for p in sorted(ROOT.glob("docs/*.md")))]
BLOCKS = [b for text in TEXTS for b in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)]
COMMANDS = [
    line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()
]
RUNS = [c for c in COMMANDS if c.startswith("ffalora run")]
BUDGETS = [c for c in COMMANDS if c.startswith("ffalora budget")]


def test_there_are_commands_to_check():
    assert len(RUNS) >= 4
    assert {"make demo", "make test"} <= set(COMMANDS)


@pytest.mark.parametrize("command", RUNS)
def test_every_run_command_composes(command, tmp_path):
    words = shlex.split(command.replace("DATA", str(tmp_path)))[2:]
    (tmp_path / "sst2").mkdir()
    sweep = "-m" in words
    jobs = plan([w for w in words if not w.startswith("-")], sweep)
    assert len(jobs) >= (2 if sweep else 1)


@pytest.mark.parametrize("command", BUDGETS)
def test_every_budget_command_gives_a_noise_multiplier(command, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("FFALORA_CACHE", str(tmp_path))
    assert main(shlex.split(command)[1:]) == 0
    assert "noise" in capsys.readouterr().out


def test_the_table_of_names_is_complete():
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|$", README, flags=re.MULTILINE)
    listed = {group: set(expand(names)) for group, names in rows}
    assert set(listed) == set(catalogue.groups()) - {"debug"}
    for group, names in listed.items():
        assert names == set(catalogue.options(group)), group


def expand(text: str) -> list[str]:
    """Words, with one {a,b}{c,d} pattern expanded as a shell would."""
    words = []
    for word in text.split():
        options = [word]
        while any("{" in o for o in options):
            options = [
                o.replace(m.group(0), choice, 1)
                for o in options
                for m in [re.search(r"\{([^}]*)\}", o)]
                for choice in m.group(1).split(",")
            ]
        words += options
    return words
