"""``explain``: values, files and lines as they really are; quick, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources

import pytest

from ffalora_cli.cli.main import main
from ffalora_cli.cli.verbs.explain import explained
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.build import leaf_keys
from ffalora_cli.config.signature import signature
from ffalora_cli.tasks.base import OF_KINDS


def line_of(found):
    """The line of the file that an explanation names."""
    path = resources.files("ffalora_cli.configs").joinpath(found["file"].removeprefix("configs/"))
    return path.read_text(encoding="utf-8").splitlines()[found["line"] - 1].strip()


@pytest.mark.parametrize(
    ("key", "overrides", "file", "text"),
    [
        ("federation.rounds", [], "federation/default.yaml", "rounds: 20"),
        ("federation.rounds", ["federation=short"], "federation/short.yaml", "rounds: 100"),
        ("federation.local_batch_size", ["federation=short"], "federation/paper.yaml", "200"),
        ("federation.rounds", ["experiment=quickstart"], "experiment/quickstart.yaml", "rounds: 8"),
        ("privacy.accountant", ["experiment=glue_sst2_dp"], "privacy/paper.yaml", "rdp"),
        ("task.max_length", ["experiment=quickstart", "debug=tiny"], "debug/tiny.yaml", "32"),
        ("adapter.rank", [], "config.yaml", "rank: 8"),
        ("seed", [], "config.yaml", "seed: 0"),
    ],
)
def test_the_line_that_set_a_key(key, overrides, file, text):
    (found,) = explained([key], overrides)
    assert found["file"] == f"configs/{file}"
    assert text in line_of(found) and line_of(found).startswith(key.rpartition(".")[2])
    assert str(found["value"]) in line_of(found)


def test_references_and_the_command_line():
    (found,) = explained(["federation.local_lr"], [])
    assert found["value"] == 8.0 and found["refers_to"].startswith("${model.local_lr.")
    (found,) = explained(["federation.local_lr"], ["federation.local_lr=3"])
    assert found["value"] == 3.0 and found["refers_to"] is None
    assert found["override"] == "federation.local_lr=3" and found["set_by"] == "command line"
    (found,) = explained(
        ["federation.rounds"], ["federation=short"]
    )  # a group choice is a file's word
    assert found["set_by"] is None


@pytest.mark.parametrize(
    ("key", "change"),
    [("federation.rounds", "21"), ("engine.threads", "1"), ("privacy.trials", "3"), ("seed", "4")],
)
def test_identity_is_what_the_signature_says(key, change):
    before, after = (plan(o)[0].resolved for o in ([], [f"{key}={change}"]))
    assert explained([key], [])[0]["identity"] == (signature(before) != signature(after))


def test_every_key_can_be_explained_with_words():
    for found in explained([key for key in leaf_keys() if not key.endswith("*")], []):
        _, _, leaf = found["key"].partition("task.")
        elsewhere = leaf.partition(".")[0] in OF_KINDS  # in files of another kind of task
        assert found["type"] and (found["line"] or elsewhere), found
        null = found["key"].startswith("task.generate.")  # the section is
        assert found["allowed"] == [] or null or _word(found["value"]) in found["allowed"], found


def _word(value):
    return json.dumps(value) if value is None or isinstance(value, bool) else value


def test_a_group_lists_its_keys(capsys):
    assert main(["explain", "federation"]) == 0
    lines = capsys.readouterr().out.splitlines()
    keys = [k for k in leaf_keys() if k.startswith("federation.")]
    assert [line.split()[0] for line in lines[: len(keys)]] == keys
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["federation.roundz"], "'federation.rounds'"),
        (["privcy"], "'privacy'"),
        (["seed=1"], "first the key"),
        (["seed", "federation.rounds=x"], "federation.rounds"),
        (["experiment"], "ffalora ls experiments"),
        (["method.options.nothing"], "not set"),
        (["seed", "seed=1,2"], "several values"),
    ],
)
def test_slips_are_one_line(words, said, capsys):
    assert main(["explain", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and len(line) <= 200


def test_nothing_heavy_is_loaded():
    code = (
        "import sys; from ffalora_cli.cli.main import main; main(['explain', 'privacy.delta', "
        "'--format', 'json']); main(['validate']); "
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout[: done.stdout.index("valid ")])
    assert found["schema"] == 1 and found["keys"][0]["unit"] == "probability"
