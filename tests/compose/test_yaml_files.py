"""Slips in a YAML of one's own: one line with the file and the line, before anything else."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import ffalora_cli.configs
import pytest

from ffalora_cli.cli.main import main
from ffalora_cli.compose import catalogue, compose, yaml_files
from ffalora_cli.compose.jobs import from_file
from ffalora_cli.config.errors import ConfigError

GOOD = "# @package _global_\n# mine\n\nfederation:\n  rounds: 2\n"
SLIPS = {
    "encoding": (GOOD.replace("mine", "für").encode("latin-1"), 2, "UTF-8"),
    "utf-16": (GOOD.encode("utf-16"), 1, "UTF-8"),
    "mark": (b"\xef\xbb\xbf" + GOOD.encode(), 1, "byte order mark"),
    "tab": (GOOD.replace("  rounds", "\trounds").encode(), 5, "tab"),
    "package": (GOOD.replace("# @package _global_\n", "").encode(), 1, "# @package _global_"),
    "empty": (b"", 1, "empty"),
    "comments": (b"# @package _global_\n", 1, "empty"),
    "list": (b"# @package _global_\n- a\n", 2, "a list"),
    "text": (b"# @package _global_\nhello\n", 2, "text"),
    "section twice": ((GOOD + "federation:\n  rounds: 3\n").encode(), 6, "line 4"),
    "key twice": ((GOOD + "  rounds: 3\n").encode(), 6, "line 5"),
    "indentation": ((GOOD + "    local_steps: 3\n").encode(), 6, "mapping values"),
    "not below": (GOOD.replace("  rounds", "rounds").encode(), 4, "is a section"),
    "no blank": (GOOD.replace("rounds: 2", "rounds:2").encode(), 4, "is a section"),
    "unknown": (GOOD.replace("rounds", "ruonds").encode(), 5, "'federation.rounds'"),
    "nothing": (GOOD.replace("mine", "m\0ine").encode(), 2, "0x00"),
    "in itself": ((GOOD + "seed: &a [*a]\n").encode(), 6, "alias"),
    "too much": ((GOOD + "task: {classes: &a [x, y]}\nname: [*a, *a]\n").encode(), 6, "alias"),
    "two documents": ((GOOD + "---\na: 1\n").encode(), 6, "another document"),
}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The shipped configs with room for a file of one's own."""
    root = tmp_path / "own_configs"
    shutil.copytree(Path(ffalora_cli.configs.__file__).parent, root)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(catalogue, "PACKAGE", "own_configs")
    monkeypatch.delitem(sys.modules, "own_configs", raising=False)
    monkeypatch.chdir(tmp_path)
    caches = (catalogue.groups, catalogue._options, yaml_files._check_file, compose._compose)
    for cached in caches:
        cached.cache_clear()
    yield root
    for cached in caches:
        cached.cache_clear()


def test_each_slip_is_one_line_with_file_and_line(own, capsys) -> None:
    file = own / "experiment" / "own.yaml"
    for slip, (content, line, said) in SLIPS.items():
        file.write_bytes(content)
        yaml_files._check_file.cache_clear()
        catalogue._options.cache_clear()
        assert main(["run", "experiment=own"]) == 2, slip
        (text,) = capsys.readouterr().err.splitlines()
        assert text.startswith(f"ffalora: configs/experiment/own.yaml, line {line}: "), slip
        assert said in text, slip
    assert not (own.parent / "runs").exists()


def test_a_folder_a_broken_link_and_a_default_that_is_not_there(own, capsys) -> None:
    (own / "experiment" / "own.yaml").mkdir()
    (own / "task" / "mine.yaml").symlink_to("nowhere")
    (own / "debug" / "mine.yaml").write_text(GOOD + "defaults:\n  - override /task: bbc_nws\n")
    catalogue._options.cache_clear()
    for typed, said in {
        "experiment=own": "configs/experiment/own.yaml: cannot be read (Is a directory)",
        "task=mine": "configs/task/mine.yaml: cannot be read (No such file",
        "debug=mine": "'bbc_news'",
    }.items():
        assert main(["run", typed]) == 2
        (text,) = capsys.readouterr().err.splitlines()
        assert said in text


@pytest.mark.parametrize(
    "entry", ["../secret: foo", "/../secret@_global_: foo", "task@head: sst2", "/task: ${name}"]
)
def test_a_default_names_an_option_of_a_group_and_no_other_file(own, capsys, entry) -> None:
    (own.parent / "secret").mkdir()
    (own.parent / "secret" / "foo.yaml").write_text("# @package _global_\nseed: 7\n")
    (own / "experiment" / "own.yaml").write_text(f"{GOOD}defaults:\n  - {entry}\n")
    catalogue._options.cache_clear()
    assert main(["validate", "experiment=own"]) == 2
    (text,) = capsys.readouterr().err.splitlines()
    assert "own.yaml: defaults: " in text and "is not one of" in text


@pytest.mark.parametrize(
    ("defaults", "said"),
    [
        ("- override /task: 123", 'line 7: defaults: 123 is a number; write "123"'),
        ("- 3", 'line 7: defaults: 3 is a number; write "3"'),
        ("- override /task: [a, b]", "line 7: defaults: write OPTION, or override /GROUP"),
        ("- override /task:", "line 7: defaults: write OPTION, or override /GROUP"),
        ("- ~", "line 7: defaults: write OPTION, or override /GROUP"),
        ("- [a]", "line 7: defaults: write OPTION, or override /GROUP"),
        ("task: sst2", "line 7: defaults should be a list"),
    ],
)
def test_a_default_is_a_text(own, capsys, defaults, said) -> None:
    (own / "experiment" / "own.yaml").write_text(f"{GOOD}defaults:\n  {defaults}\n")
    catalogue._options.cache_clear()
    assert main(["validate", "experiment=own"]) == 2
    (text,) = capsys.readouterr().err.splitlines()
    assert f"own.yaml, {said}" in text


def test_a_pipe_is_named_and_nobody_waits_for_it(own, capsys) -> None:
    os.mkfifo(own / "task" / "pipe.yaml")
    (own / "task" / "endless.yaml").symlink_to("/dev/zero")
    catalogue._options.cache_clear()
    assert main(["ls", "tasks"]) == 0
    assert capsys.readouterr().out.count("cannot be read (a pipe or device)") == 2
    for name in ("pipe", "endless"):
        assert main(["validate", f"task={name}"]) == 2
        (text,) = capsys.readouterr().err.splitlines()
        assert f"{name}.yaml: cannot be read (a pipe or device); make it a file" in text
    assert main(["explain", "task.kind"]) == 0


@pytest.mark.parametrize("group", catalogue.groups())
def test_every_shipped_file_passes(group) -> None:
    for option in catalogue.options(group):
        yaml_files.check_option(group, option)


def test_a_whole_configuration_in_a_file_is_read_as_strictly(tmp_path) -> None:
    file = tmp_path / "config.yaml"
    for content, line in ((b"", 1), (b"a: 1\na: 2\n", 2), (b"a: 1\n\tb: 2\n", 2), (b"\xff", 1)):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=f"config.yaml, line {line}: "):
            from_file(file, [])


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("seed=18446744073709551616", "below 2^64"),
        ("adapter.seed=99999999999999999999999", "below 2^64"),
        ("task.classes=[business,sport,politics,tech,sport]", "'sport' twice"),
    ],
)
def test_what_cannot_be_sent_or_told_apart_is_refused_first(
    typed, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["run", typed]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
