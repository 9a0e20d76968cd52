"""Completion as a shell does it: a real bash asks, and nothing heavy is loaded for the answer."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from ffalora_cli.cli.main import VERBS, main
from ffalora_cli.cli.verbs.completion import words
from ffalora_cli.compose import catalogue


def test_words_by_position():
    assert words("ffalora ") == list(VERBS)
    assert "method=" in words("ffalora run task=sst2 ")
    assert "federation.local_lr=" in words("ffalora run fed")
    assert words("ffalora run method=") == [f"method={m}" for m in catalogue.options("method")]
    assert words("ffalora run seed=") == []
    assert "tasks" not in words("ffalora show ")
    assert words("ffalora new ") == ["task"] and "configs" in words("ffalora new task ")
    assert words("ffalora ls ")[0] == "runs" and words("ffalora ls runs ") == []
    for verb in ("plan", "validate", "explain"):
        assert "method=lora" in words(f"ffalora {verb} seed method=")
    assert {"privacy", "privacy.delta"} <= {*words("ffalora explain priv")}


def test_an_unknown_shell_is_one_line(capsys):
    assert main(["completion", "bush"]) == 2
    assert "did you mean 'bash'" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_a_real_bash_completes_a_group(capsys, tmp_path):
    assert main(["completion", "bash"]) == 0
    program = tmp_path / "ffalora"
    start = "import sys; from ffalora_cli.cli.main import main; sys.exit(main(sys.argv[1:]))"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{start}" "$@"\n')
    program.chmod(0o755)
    line = "ffalora run method=ffa"
    script = capsys.readouterr().out + f"\nPATH={tmp_path}:$PATH\nCOMP_LINE='{line}'\n"
    script += 'COMP_POINT=${#COMP_LINE}; COMP_WORDBREAKS="="; _ffalora; echo "${COMPREPLY[*]}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "ffa_lora"


def test_completing_loads_nothing_heavy():
    code = (
        "import sys; from ffalora_cli.cli.main import main; main(['completion', '--line', "
        "'ffalora run ']); print({'torch', 'numpy', 'hydra', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()"
