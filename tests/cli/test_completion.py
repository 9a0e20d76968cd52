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


def completed(line: str, capsys, tmp_path) -> str:
    """What a real bash offers behind ``line``."""
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    assert main(["completion", "bash"]) == 0
    program = tmp_path / "bin" / "ffalora"
    program.parent.mkdir()
    start = "import sys; from ffalora_cli.cli.main import main; sys.exit(main(sys.argv[1:]))"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{start}" "$@"\n')
    program.chmod(0o755)
    script = capsys.readouterr().out + f"\nPATH={program.parent}:$PATH\nCOMP_LINE='{line}'\n"
    script += 'COMP_POINT=${#COMP_LINE}; COMP_WORDBREAKS="="; _ffalora; echo "${COMPREPLY[*]}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_real_bash_completes_a_group(capsys, tmp_path):
    assert completed("ffalora run method=ffa", capsys, tmp_path) == "ffa_lora"


@pytest.mark.parametrize("line", ["ffalora run task=row", "ffalora new task row"])
def test_no_file_of_a_folder_that_somebody_else_made_is_a_command(
    capsys, tmp_path, monkeypatch, line
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "task").mkdir(parents=True)
    for name in ("rows", "row$(touch${IFS}ran)", "row`touch${IFS}ran`", "row\x1b[31m", "row\nm"):
        (tmp_path / f"{name}.csv").touch()
        (tmp_path / "configs" / "task" / f"{name}.yaml").write_text("# what\x1b[2J it is\n")
    assert completed(line, capsys, tmp_path).partition(".")[0] == "rows"
    assert not (tmp_path / "ran").exists()
    assert main(["ls", "tasks"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_completing_loads_nothing_heavy():
    code = (
        "import sys; from ffalora_cli.cli.main import main; main(['completion', '--line', "
        "'ffalora run ']); print({'torch', 'numpy', 'hydra', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()"
