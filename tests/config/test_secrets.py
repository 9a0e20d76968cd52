"""Keys of the environment are in no record, line or traceback; nothing in the package unpickles."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ffalora_cli
from ffalora_cli.cli.main import main
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.rules import refuse_secrets
from ffalora_cli.config.secrets import redact
from tests import ROOT

PACKAGE = Path(ffalora_cli.__file__).parent
FORBIDDEN = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
CALLS = ("eval", "exec", "torch.load", "joblib.load", "os.system", "yaml.load")


def test_values_are_replaced_longest_first(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "abcdefgh")
    monkeypatch.setenv("MY_PASSWORD", "abcdefgh-longer")
    monkeypatch.setenv("SHORT_KEY", "abc")
    monkeypatch.setenv("HARMLESS", "not hidden")
    assert redact("x abcdefgh-longer abcdefgh abc not hidden") == (
        "x <MY_PASSWORD> <MY_TOKEN> abc not hidden"
    )


@pytest.mark.parametrize("place", [{"a": {"b": ["x", "-abcdefgh-"]}}, {"a": {"abcdefgh": 1}}])
def test_a_config_that_holds_one_is_refused_without_saying_it(place, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "abcdefgh")
    with pytest.raises(ConfigError, match="MY_TOKEN") as caught:
        refuse_secrets(place)
    assert "abcdefgh" not in str(caught.value)


def test_typed_into_an_override_it_reaches_neither_disk_nor_screen(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "f00df00df00d")
    monkeypatch.chdir(tmp_path)
    for key in ("tracking.project", "tracking.entity", "no.such.key", "federation.rounds"):
        assert main(["run", f"{key}=f00df00df00d"]) == 2
        assert "f00df00d" not in "".join(capsys.readouterr())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["federation.rounds", "federation.wire_dtype", "task", "no.key"])
def test_what_is_cut_to_fit_a_line_leaves_no_part_of_one(key, monkeypatch, capsys):
    secret = "".join(f"{number:x}q" for number in range(100, 120))  # longer than a line shows
    monkeypatch.setenv("HF_TOKEN", secret)
    for typed in (f"{key}={secret}", f"{secret}={key}", f"{key}={'a' * 30}{secret}", f"{secret}("):
        assert main(["run", typed]) == 2
        said = "".join(capsys.readouterr())
        pieces = {secret[at : at + 6] for at in range(len(secret) - 6)}
        assert not any(piece in said for piece in pieces), said


def test_a_note_of_a_tracker_that_quotes_one_is_redacted(monkeypatch, tmp_path):
    from ffalora_cli.config.schema import TrackingConfig
    from ffalora_cli.records.trackers.wandb import WandbTracker

    secret = "0123456789abcdef" * 3
    monkeypatch.setenv("WANDB_API_KEY", secret)
    tracker = WandbTracker(TrackingConfig("wandb", "any", None, "offline", None, ()))
    tracker._give_up(f"{'x' * 140} refused {secret}")
    (note,) = tracker.notes
    assert "<WANDB" in note and "0123456789" not in note


@pytest.mark.slow
def test_planted_secrets_are_found_nowhere():
    from scripts.chaos import secrets

    row = secrets.secrets()
    assert row.good == row.tried > 30, row.failures


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: f.name)
def test_nothing_unpickles_evaluates_or_shells_out(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported = {alias.name.split(".")[0] for alias in node.names}
            assert FORBIDDEN.isdisjoint(imported)
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in FORBIDDEN
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in CALLS, called
            assert "unsafe_load" not in called and "full_load" not in called
            for keyword in node.keywords:
                value = ast.unparse(keyword.value)
                assert (keyword.arg, value) not in {
                    ("trust_remote_code", "True"), ("shell", "True"), ("allow_pickle", "True"),
                    ("weights_only", "False"),
                }  # fmt: skip


def test_transformers_is_new_enough():
    """Before 5.3 a field of a model's config ran remote code whatever was said (CVE-2026-4372)."""
    import tomllib

    file = ROOT / "pyproject.toml"
    wanted = tomllib.loads(file.read_text())["project"]["dependencies"]
    (line,) = [text for text in wanted if text.startswith("transformers")]
    least = line.removeprefix("transformers>=")
    assert tuple(map(int, least.split("."))) >= (5, 3)
