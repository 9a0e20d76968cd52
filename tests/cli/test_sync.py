"""``ffalora sync``: what a tracker missed reaches it once, read back from W&B's own files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import yaml

from ffalora_cli.cli.main import main
from ffalora_cli.compose import catalogue
from ffalora_cli.records.reading import read_run
from ffalora_cli.records.trackers import wandb as tracker_module
from ffalora_cli.records.trackers.base import RunFacts, open_tracker
from ffalora_cli.records.trackers.wandb_file import entries
from tests.tiny import save_tiny_bert
from tests.trackers import small_run, tracking, wandb_offline


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("sync")
    return small_run(save_tiny_bert(root / "model"), root / "runs")


@pytest.fixture
def run(finished, tmp_path):
    with wandb_offline(tmp_path / "wandb"):
        yield shutil.copytree(finished, tmp_path / finished.name)


def arrived(folder):
    """(project, round, accuracy) of every row in every offline file, in order."""
    import wandb

    wandb.teardown()  # as at the end of a process: everything is written
    found = []
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        project = None
        for entry in entries(file):
            project = entry.run.project if entry.HasField("run") else project
            row = {i.key or i.nested_key[0]: i.value_json for i in entry.history.item}
            if row:
                found.append((project, int(row["round"]), json.loads(row["eval/accuracy"])))
    return found


def local(folder, project="ffalora"):
    return [(project, r.round, r.metrics["eval/accuracy"]) for r in read_run(folder).rounds]


def test_a_run_without_a_tracker_arrives_once_however_often(run, capsys) -> None:
    assert main(["sync", str(run)]) == 0
    first = capsys.readouterr().out.splitlines()
    assert first[0] == "W&B: WANDB_MODE=offline from the environment"
    assert first[1].startswith("W&B was offline; upload with: wandb sync ")
    assert first[2] == f"the tracker has 4 rounds of {run.name}"
    assert arrived(run) == local(run)
    assert main(["sync", str(run), "tracking=wandb"]) == 0  # a group, too
    assert arrived(run) == local(run)


def test_another_project_gets_every_round_of_its_own(run) -> None:
    assert main(["sync", str(run)]) == 0
    assert main(["sync", str(run), "tracking.project=mine"]) == 0
    assert main(["sync", str(run)]) == 0
    assert sorted(arrived(run)) == sorted([*local(run), *local(run, "mine")])


def test_after_a_failed_tracker_the_rest_arrives(run, monkeypatch) -> None:
    import wandb

    with monkeypatch.context() as patch:
        original = wandb.Run.log

        def log(self, data, **more):
            if data["round"] == 2:
                raise wandb.errors.CommError("gone")
            return original(self, data, **more)

        patch.setattr(wandb.Run, "log", log)
        assert main(["sync", str(run)]) == 1
    assert [number for _, number, _ in arrived(run)] == [0, 1]
    assert main(["sync", str(run)]) == 0
    assert arrived(run) == local(run)


@pytest.mark.parametrize("noted", [None, 3])
@pytest.mark.parametrize("rows", [0, 2])
def test_what_is_in_the_files_counts_and_not_a_note_that_is_behind_or_ahead(
    run, noted, rows, monkeypatch
) -> None:
    """Killed between sending a round and noting it; or noted, and the machine lost power."""
    monkeypatch.setattr(tracker_module, "SETTLE_SECONDS", 0.3)
    tracker = open_tracker(tracking("wandb", project="ffalora"))
    records = read_run(run)
    tracker.start(replace(RunFacts.of(run, "demo", records.config), replayed=True))
    for record in records.rounds[:rows]:
        tracker.log(record)
    tracker.finish(None, exit_code=1)
    assert len(arrived(run)) == rows
    note = run / "tracker.json"
    note.unlink(missing_ok=True)
    if noted is not None:
        (file,) = run.glob("wandb/offline-run-*")
        note.write_text(json.dumps({"rounds": {"/ffalora": {file.name: noted}}}))
    assert main(["sync", str(run)]) == 0
    assert arrived(run) == local(run)


def test_files_that_were_uploaded_and_cleaned_up_are_remembered(run) -> None:
    assert main(["sync", str(run)]) == 0
    assert len(arrived(run)) == 4
    shutil.rmtree(run / "wandb")  # as `wandb clean` does with what is uploaded
    assert main(["sync", str(run)]) == 0
    assert arrived(run) == []


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_an_absent_package_is_one_line_and_exit_code_1(run, name, capsys, monkeypatch) -> None:
    import sys

    for module in list(sys.modules):
        if module.split(".")[0] == name:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    assert main(["sync", str(run), f"tracking={name}"]) == 1
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "tracker off" in out
    assert "pip install 'ffalora[trackers]'; the local records are complete" in out


def test_no_other_group_can_be_chosen_again(run, capsys) -> None:
    assert main(["sync", str(run), "method=lora"]) == 2
    assert "a recorded run has keys, no groups" in capsys.readouterr().err


def test_options_of_tracking_differ_in_their_name_alone() -> None:
    from importlib import resources

    folder = resources.files(catalogue.PACKAGE).joinpath("tracking")
    found = [
        yaml.safe_load(folder.joinpath(f"{name}.yaml").read_text())
        for name in catalogue.options("tracking")
    ]
    assert [option.pop("name") for option in found] == list(catalogue.options("tracking"))
    assert all(option == found[0] for option in found)
