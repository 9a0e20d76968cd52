"""Every command and code block of the README and docs is run (``blocks.py`` says how)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from ffalora_cli.cli.main import VERBS, main
from ffalora_cli.compose.hydra_keys import take
from ffalora_cli.compose.jobs import plan
from ffalora_cli.compose.overrides import split_space
from tests.docs.blocks import (
    BLOCKS,
    NOT_CODE,
    PAGES,
    ROOT,
    SLOW,
    WITH_FILES,
    Block,
    blocks_of,
    cut_down,
    filled,
    words_of,
)
from tests.entry_points import offer
from tests.tiny import save_tiny_bert

SKIPPED = 6  # blocks that are not run; raise it only with a reason beside the block
FROM_THE_COPY = """
import sys
# Without the finders of an editable install, which would find the checkout's configs.
sys.meta_path[:] = [f for f in sys.meta_path if f.__module__.startswith("_frozen")]
from ffalora_cli.cli.main import main
sys.exit(main())
"""
COMMANDS = [(b, c) for b in BLOCKS if not b.skip for c in b.commands]
ALONE = [(b, c) for b, c in COMMANDS if b.page not in WITH_FILES and not b.together]
OURS = [(b, c) for b, c in ALONE if "ffalora " in c]
RUNS = [(b, c) for b, c in OURS if words_of(c)[0] in ("run", "sweep", "tune")]
QUICK = [(b, c) for b, c in OURS if words_of(c)[0] not in SLOW]


def named(pairs):
    return [pytest.param(b, c, id=f"{b.page}:{c[:60]}") for b, c in pairs]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny model, tasks and finished runs of two tasks, for all commands here."""
    root = tmp_path_factory.mktemp("docs")
    save_tiny_bert(root / "model")
    write_data(root / "data")
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, root)
        words = ["task=sst2", "partition=iid", "privacy.epsilon_target=null"]
        words += ["privacy.noise_multiplier=1.0", "federation.eval_clients=true"]  # quick to plan
        words += ["diagnostics=mechanism"]
        words = cut_down(words, root / "data", root / "model")
        assert main(["run", "--quiet", *words]) == 0
        (run,) = (root / "runs").iterdir()
        other = ["task=bbc_news", "privacy.accountant=rdp"]
        other = cut_down(other, root / "data", root / "model")
        assert main(["run", "--quiet", *other, "task.max_length=8"]) == 0
    return root, str(run)


def enter(patch, root):
    patch.chdir(root)
    patch.setenv("WANDB_MODE", "offline")
    patch.setenv("HF_HUB_OFFLINE", "1")


def write_data(folder):
    """Short rows for the tasks that the pages name: both classes, all different."""
    for task, column in (("sst2", "sentence"), ("mine", "text")):
        (folder / task).mkdir(parents=True)
        for split, size in (("train", 120), ("validation", 20)):
            rows = [
                f"the {split} film number {i} is {'good' if i % 2 else 'bad'},{i % 2}"
                for i in range(size)
            ]
            text = "\n".join([f"{column},label", *rows]) + "\n"
            (folder / task / f"{split}.csv").write_text(text, encoding="utf-8")


def test_there_is_much_to_run_and_little_is_skipped():
    assert len(RUNS) >= 15 and len(QUICK) >= 15
    skipped = [f"{b.page}:{b.line} {b.skip}" for b in BLOCKS if b.skip]
    assert len(skipped) <= SKIPPED, skipped
    assert all(len(b.skip) > 10 for b in BLOCKS if b.note.startswith("skip")), "give a reason"


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: f"{b.page}:{b.line}")
def test_every_block_is_of_a_kind_that_is_run_parsed_or_no_code(block: Block):
    assert block.language in NOT_CODE | {"bash", "python", "yaml", "json", "toml"}
    if block.language == "yaml":
        yaml.safe_load(block.text)
    elif block.language == "json":
        json.loads(block.text)
    elif block.language == "toml":
        tomllib.loads(block.text)
    elif block.language == "python":
        compile(block.text, block.page, "exec")


@pytest.mark.parametrize(("block", "command"), named(COMMANDS))
def test_every_command_is_one_of_ours_or_of_the_checkout(block: Block, command: str):
    first, *rest = command.split()
    if "ffalora " in command and first in ("ffalora", "eval"):
        assert words_of(command)[0] in VERBS
    elif first == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        assert first == "python" and (ROOT / rest[0]).is_file(), "unknown: test it or skip it"


@pytest.mark.parametrize(("block", "command"), named(RUNS))
def test_every_run_composes_as_it_stands(block: Block, command: str, tmp_path):
    verb, *words = filled(words_of(command), "RUN", tmp_path, tmp_path)
    sweep = verb in ("sweep", "tune") or "-m" in words
    words, about = take([w for w in words if not w.startswith("-")], sweep)
    if about.sweeper == "optuna":
        words, space = split_space(words)
        assert space
    assert len(plan(words, sweep)) >= (2 if sweep and about.sweeper == "basic" else 1)


@pytest.mark.parametrize(("block", "command"), named(QUICK))
def test_every_quick_command_ends_well(block: Block, command: str, place, monkeypatch, capsys):
    root, run = place
    enter(monkeypatch, root)
    words = filled(words_of(command), run, root / "data", root / "model")
    words += ["privacy.accountant=rdp"] if words[0] == "plan" else []  # as typed: a slow test
    assert main(words) == 0, capsys.readouterr().err
    said = capsys.readouterr()
    assert said.out.strip() or ("-o" in words and "written: " in said.err)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.name not in WITH_FILES], ids=lambda p: p.name
)
def test_a_page_from_top_to_bottom(page: Path, place, monkeypatch, capsys):
    root, run = place
    enter(monkeypatch, root)
    shutil.rmtree(root / "DIR", ignore_errors=True)
    for block in blocks_of(page):
        if block.skip or block.together:
            continue
        if block.language == "python":
            exec(compile(block.text, block.page, "exec"), {})
        for command in block.commands:
            if "ffalora " not in command:
                continue  # a target or a script: each has tests of its own
            words = filled(words_of(command), run, root / "data", root / "model")
            assert main(shortened(words, root)) == 0, (command, capsys.readouterr().err[-500:])


def shortened(words, root):
    verb = words[0]
    if verb in ("run", "sweep"):
        return [verb, *cut_down(words[1:], root / "data", root / "model")]
    if verb == "audit":
        return [*words, "--minutes", "0.1", "--tier", "mechanism"]
    if verb == "attack":
        return [*words, "--tokens", "4", "--rank", "8"]
    return words


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(WITH_FILES))
def test_a_page_that_adds_files_to_a_checkout(page, tmp_path):
    """The files go into a copy of the package; its own command line runs the page."""
    package = tmp_path / "ffalora_cli"
    shutil.copytree(ROOT / "ffalora_cli", package)
    shutil.copytree(ROOT / "configs", package / "configs")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for block in blocks_of(next(p for p in PAGES if p.name == page)):
        if block.file:
            target = tmp_path / re.sub(r"^configs/", "ffalora_cli/configs/", block.file)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
        if block.file == "pyproject.toml":
            project = tomllib.loads(block.text)["project"]
            offer(tmp_path, project["name"], project["entry-points"])
        for command in block.commands:
            words = filled(words_of(command), "RUN", tmp_path / "DATA", tmp_path)
            if words[0] in ("run", "sweep"):
                words = [words[0], *cut_down(words[1:], tmp_path / "DATA", None)]
            done = subprocess.run(
                [sys.executable, "-c", FROM_THE_COPY, *words],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, (command, done.stderr[-500:])
    assert len(list((tmp_path / "runs").iterdir())) >= 1
