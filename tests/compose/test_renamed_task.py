"""A task renamed by keys is other data: the old one's hub path, package and licence go."""

from __future__ import annotations

import json

import pytest
from omegaconf import OmegaConf

from ffalora_cli.cli.main import main
from ffalora_cli.compose import catalogue
from ffalora_cli.compose.compose import change, compose_job, forget_below
from ffalora_cli.compose.overrides import Setting, expand

UNSET = {"folder": None, "hub_path": None, "hub_name": None, "package": None, "license": ""}


def settings(*typed: str) -> list[Setting]:
    (job,) = expand(typed, sweep=False)
    return job


def composed(*typed: str) -> dict:
    return compose_job(settings(*typed))


def origin(config: dict) -> dict:
    return {key: config["task"][key] for key in UNSET}


@pytest.mark.parametrize("task", catalogue.options("task"))
def test_a_new_name_forgets_where_the_old_rows_lie(task) -> None:
    assert origin(composed(f"task={task}", "task.name=mine")) == UNSET
    same = composed(f"task={task}", f"task.name={task}")
    assert same == composed(f"task={task}") and origin(same) != UNSET


def test_what_is_given_is_kept() -> None:
    given = ["task.hub_path=me/mine", "++task.license=MIT", "task.package=pack/rows"]
    found = origin(composed(*given, "task=sst2", "task.name=mine"))
    assert found == UNSET | {"hub_path": "me/mine", "license": "MIT", "package": "pack/rows"}


def test_every_job_of_a_sweep_is_judged_by_its_own_name() -> None:
    for names in ("sst2,mine", "mine,sst2"):  # whatever was composed before
        jobs = expand(["task=sst2", f"task.name={names}"], sweep=True)
        found = {config["task"]["name"]: origin(config) for config in map(compose_job, jobs)}
        assert found["sst2"]["hub_path"] == "nyu-mll/glue" and found["mine"] == UNSET


def test_a_recorded_run_that_is_renamed_forgets_it_too() -> None:
    recorded = composed("task=sst2")
    assert origin(change(recorded, settings("task.name=mine"))) == UNSET
    assert change(recorded, settings("task.name=sst2")) == recorded
    kept = change(recorded, settings("task.name=mine", "task.hub_path=me/mine"))
    assert origin(kept) == UNSET | {"hub_path": "me/mine"}


def test_a_file_that_renames_it_counts_as_the_command_line_does() -> None:
    """Keys set with the last name, or after it, are the new task's; those below are the old's."""
    task = {
        "name": "mine",
        "folder": "old",
        "hub_path": "old",
        "hub_name": "old",
        "package": "old",
        "license": "new",
    }
    option = {"task.name", "task.hub_path", "task.hub_name", "task.license"}
    experiment = {"task", "task.name", "task.license"}
    for layers in ([option, experiment, set()], [option, experiment, {"seed"}]):
        config = OmegaConf.create({"task": dict(task)})
        forget_below(config, layers)
        assert config.task == task | UNSET | {"license": "new"}
    config = OmegaConf.create({"task": dict(task)})
    forget_below(config, [option, {"task.license"}])
    assert config.task == task  # nobody renamed it


def test_explain_says_who_unset_it(capsys) -> None:
    words = ["task.hub_path", "task=sst2", "task.name=mine", "--format", "json"]
    assert main(["explain", *words]) == 0
    (key,) = json.loads(capsys.readouterr().out)["keys"]
    assert key["value"] is None and key["override"] == "task.name=mine"
