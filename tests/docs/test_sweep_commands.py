"""The commands of docs/sweeps.md are sweeps that pass every check before the first job."""

from __future__ import annotations

import re
import shlex

import pytest

from ffalora_cli.cli.searching import _check_space
from ffalora_cli.compose.hydra_keys import take
from ffalora_cli.compose.jobs import plan
from ffalora_cli.compose.overrides import split_space
from ffalora_cli.sweep.launchers.base import names, open_launcher
from tests import ROOT

TEXT = ROOT.joinpath("docs/sweeps.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines()]
SWEEPS = [line for line in LINES if line.startswith("ffalora sweep")]


@pytest.mark.parametrize("line", SWEEPS)
def test_every_sweep_passes_its_checks(line, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: name)  # a scheduler's programs
    words = [w for w in shlex.split(line, comments=True)[2:] if not w.startswith("--")]
    rest, about = take(words, sweep=True)
    open_launcher(about.launcher, about.launcher_settings)
    if about.sweeper == "optuna":
        _check_space(*split_space(rest))
    else:
        assert len(plan(rest, sweep=True)) > 1


def test_every_launcher_is_in_the_table():
    assert set(re.findall(r"^\| `(\w+)` \|", TEXT, flags=re.MULTILINE)) == set(names())
    assert len(SWEEPS) >= 8
