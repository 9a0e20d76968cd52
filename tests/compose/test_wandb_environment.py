"""W&B's variables: typed keys first, then they, then YAML; never part of a run's identity."""

from __future__ import annotations

import pytest

from ffalora_cli.compose.jobs import plan, recorded
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.records.run_directory import run_folder
from tests.made_runs import write_run

NAMES = ("PROJECT", "ENTITY", "RUN_GROUP", "TAGS", "MODE", "DIR", "DISABLED", "NAME")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    return lambda **values: [monkeypatch.setenv(f"WANDB_{n}", v) for n, v in values.items()]


def one(*typed):
    return plan(typed)[0]


def test_typed_then_environment_then_yaml(environment):
    before = one("tracking=wandb")
    environment(PROJECT="theirs", ENTITY="team", RUN_GROUP="g", TAGS="a, b", MODE="offline")
    job = one("tracking=wandb", "tracking.project=typed")
    tracking = job.config.tracking
    assert (tracking.project, tracking.entity, tracking.group) == ("typed", "team", "g")
    assert (tracking.tags, tracking.mode) == (("a", "b"), "offline")
    assert job.signature == before.signature and job.config.name == before.config.name
    (note,) = job.notes
    assert "WANDB_ENTITY=team" in note and "environment" in note and "PROJECT" not in note
    assert before.notes == ()


def test_a_name_from_the_environment_keeps_the_run(environment, tmp_path):
    where = f"paths.runs={tmp_path}"
    folder = write_run(tmp_path, ["tracking=wandb"], [0.1], finished=False)
    environment(NAME="my run: 1")
    job = one("tracking=wandb", where)
    assert (job.config.name, job.named) == ("my_run_1", False)
    assert run_folder(job) == folder
    assert one("tracking=wandb", "name=typed").config.name == "typed"


def test_what_began_the_run_was_typed_before_the_environment(environment, tmp_path):
    typed = ["tracking=wandb", "tracking.project=mine"]
    folder = write_run(tmp_path, typed, [0.1], finished=False)
    environment(PROJECT="theirs", ENTITY="team")
    tracking = recorded(folder, []).config.tracking
    assert (tracking.project, tracking.entity) == ("mine", "team")


@pytest.mark.parametrize("off", [{"MODE": "disabled"}, {"DISABLED": "true"}, {"DISABLED": "1"}])
def test_disabled_is_no_tracker(environment, off):
    environment(**off)
    job = one("tracking=wandb")
    assert job.config.tracking.name == "none"
    assert job.notes[0].startswith("tracking=none: WANDB_")
    assert one("tracking=wandb", "tracking.mode=online").config.tracking.name == "wandb"


def test_other_trackers_and_none_are_left_alone(environment):
    environment(PROJECT="theirs", MODE="disabled", NAME="x")
    for tracker in ("none", "trackio", "tensorboard"):
        job = one(f"tracking={tracker}")
        assert (job.config.tracking.name, job.config.tracking.project) == (tracker, "ffalora")
        assert job.notes == () and job.config.name == "bbc_news-ffa_lora-s0"


def test_an_unknown_mode_is_one_line(environment):
    environment(MODE="ofline")
    with pytest.raises(ConfigError, match=r"WANDB_MODE='ofline' is not one of .* 'offline'"):
        one("tracking=wandb")
