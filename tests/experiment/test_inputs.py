"""A finished run is an answer only for the inputs it was made from: data, weights, tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ffalora_cli.cli.main import main
from ffalora_cli.experiment.inputs import Loaded
from ffalora_cli.records.reading import find_runs, read_run
from ffalora_cli.sweep.jobs import Ended
from ffalora_cli.sweep.launchers import basic
from tests.tiny import save_tiny_bert

TASK = [
    "task=sst2", "task.name=mine", "task.classes=[bad,good]", "task.text_columns=[text]",
    "task.eval_split=holdout", "privacy=none", "partition=iid", "federation.num_clients=2",
    "federation.local_batch_size=2", "federation.rounds=1", "federation.local_steps=1",
]  # fmt: skip
WHERE = ["paths.data=data", "paths.runs=runs", "model.source=./model"]


def rows(count: int = 24, word: str = "fine") -> str:
    """A CSV file of so many rows."""
    lines = [f"a film of {i} parts that is {word} in part {i},{i % 2}" for i in range(count)]
    return "\n".join(["text,label", *lines]) + "\n"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with data, a model, and one finished run of them."""
    root = tmp_path_factory.mktemp("finished")
    (root / "data" / "mine").mkdir(parents=True)
    (root / "data" / "mine" / "train.csv").write_text(rows())
    save_tiny_bert(root / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(["run", *TASK, *WHERE, "--quiet"]) == 0
    return root


@pytest.fixture
def here(finished, tmp_path, monkeypatch):
    """A copy of it, to be changed."""
    monkeypatch.chdir(shutil.copytree(finished, tmp_path / "here"))
    return tmp_path / "here"


def other_weights(here: Path) -> None:
    import torch
    from transformers import BertForSequenceClassification

    model = BertForSequenceClassification.from_pretrained(here / "model")
    with torch.no_grad():
        model.bert.encoder.layer[0].attention.self.query.weight[0, 0] += 1
    model.save_pretrained(here / "model")


def other_tokenizer(here: Path) -> None:
    file = here / "model" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"do_lower_case": False}))


CHANGES = {
    "data of split train": lambda here: (here / "data/mine/train.csv").write_text(rows(word="bad")),
    "the model's weights": other_weights,
    "the tokenizer": other_tokenizer,
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_input_is_said_wherever_the_result_would_be_taken(what, here, capsys):
    CHANGES[what](here)
    capsys.readouterr()  # transformers' bars
    (folder,) = find_runs("runs")
    before = {file: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    asked = {
        ("run", *TASK, *WHERE): "add --again, or choose another name=",
        ("validate", *TASK, *WHERE): "add --again, or choose another name=",
        ("validate", "-m", *TASK, *WHERE, "seed=1,0"): "choose another name= (job 2 of 2: seed=0)",
        ("sweep", *TASK, *WHERE, "seed=1,0"): "choose another name= (job 2 of 2: seed=0)",
        ("sweep", *TASK, *WHERE, "hydra.launcher.n_jobs=2"): "choose another name=",
        ("resume", str(folder)): "choose another name=",
    }
    for words, remedy in asked.items():
        assert main(list(words)) == 2, words
        (line,) = capsys.readouterr().err.splitlines()
        assert f"done before on other inputs: {what} changed since; " in line
        assert line.endswith(remedy) and len(line) < 260
    assert find_runs("runs") == [folder] and not Path("runs/sweeps").exists()
    assert before == {file: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_a_search_does_not_go_on_from_trials_on_other_inputs(here, capsys, monkeypatch):
    """Values of earlier trials are in its journal: no run would be looked at again."""
    pytest.importorskip("optuna")
    monkeypatch.setattr(basic, "play", lambda job, *_: Ended(main([*job.arguments]), 1.0))  # here
    words = ["sweep", "hydra/sweeper=optuna", *TASK, *WHERE]
    words.append("federation.eval_every=1,2")
    assert main([*words, "hydra.sweeper.n_trials=1", "--quiet"]) == 0
    Path("data/mine/train.csv").write_text(rows(22))
    capsys.readouterr()
    for trials in (1, 2):
        assert main([*words, f"hydra.sweeper.n_trials={trials}", "--quiet"]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert "data of split train changed since; to run on these choose another name=" in line
    assert main([*words, "hydra.sweeper.n_trials=1", "name=fresh", "--quiet"]) == 0


def test_the_same_content_elsewhere_is_the_same_input(here, capsys):
    shutil.move("data", "moved")
    words = [*TASK, *WHERE, "paths.data=moved"]
    assert main(["run", *words, "--quiet"]) == 0
    assert main(["validate", *words]) == 0
    captured = capsys.readouterr()
    assert "note" not in captured.out and captured.err == ""
    assert main(["run", *TASK, *WHERE]) == 2  # what it was made from is not there any more
    assert "paths.data='data' is not a folder" in capsys.readouterr().err


def test_another_folder_of_other_data_is_another_input(here, capsys):
    Path("other/mine").mkdir(parents=True)
    Path("other/mine/train.csv").write_text(rows(23))
    assert main(["run", *TASK, *WHERE, "paths.data=other"]) == 2
    assert "data of split train changed" in capsys.readouterr().err


def test_again_runs_on_them_and_the_copy_is_named_from_then_on(here, capsys):
    Path("data/mine/train.csv").write_text(rows(22))
    assert main(["run", *TASK, *WHERE, "--again", "--quiet"]) == 0
    first, second = find_runs("runs")
    assert main(["run", *TASK, *WHERE]) == 2
    assert capsys.readouterr().err.endswith(f"the result on these is in {second}\n")
    assert main(["compare", "--runs", "runs", "--anyway"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"{first.name}, {second.name}: one configuration on different inputs (" in said
    assert "train rows" in said and "counted once" not in said


def test_an_older_manifest_is_compared_as_far_as_it_goes(here, capsys):
    (folder,) = find_runs("runs")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["inputs"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert main(["validate", *TASK, *WHERE]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "not compared with what is there now: the model's weights, the tokenizer" in said
    assert main(["run", *TASK, *WHERE]) == 0
    assert "not compared" in capsys.readouterr().out
    Path("data/mine/train.csv").write_text(rows(22))
    assert main(["run", *TASK, *WHERE]) == 2
    assert "data of split train changed" in capsys.readouterr().err


@pytest.mark.parametrize("what", CHANGES)
def test_a_run_that_stopped_does_not_go_on_with_other_inputs(what, here, capsys):
    (folder,) = find_runs("runs")
    (folder / "summary.json").unlink()
    CHANGES[what](here)
    capsys.readouterr()
    assert main(["resume", str(folder), "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    key = {"data of split train": "data.train", "the model's weights": "weights"}
    assert "another run was begun here" in line
    assert f" {key.get(what, 'tokenizer')} '" in line


def test_a_begun_run_older_than_a_key_goes_on_as_it_began(here, capsys):
    """It dealt rows; the default of today deals texts, which would be another run."""
    assert main(["run", *TASK, *WHERE, "partition.keep_together=row", "name=older"]) == 0
    (folder,) = Path("runs").glob("older-*")
    (folder / "summary.json").unlink()
    config, manifest = folder / "config.yaml", json.loads((folder / "manifest.json").read_text())
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if "keep_together" not in line))
    del manifest["identity"]["config"]["partition"]["keep_together"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    capsys.readouterr()
    assert main(["resume", str(folder)]) == 0, capsys.readouterr().err
    assert (folder / "summary.json").exists()


def test_a_run_of_an_older_arithmetic_is_kept_forked_and_never_gone_on_with(here, capsys):
    """No number is 1. The finished run is an answer still; the begun one begins another."""
    (folder,) = find_runs("runs")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest.pop("numerics") > 1
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert main(["run", *TASK, *WHERE]) == 0
    assert main(["show", str(folder)]) == 0
    assert len(find_runs("runs")) == 1
    (folder / "summary.json").unlink()
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    capsys.readouterr()
    for command in (["resume", str(folder)], ["run", *TASK, *WHERE]):
        assert main([*command, "--quiet"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "(numerics 1, here" in line and line.endswith(f"ffalora resume {folder} --fork")
    assert {p: p.read_bytes() for p in Path("runs").rglob("*") if p.is_file()} == before
    assert main(["resume", str(folder), "--fork", "federation.rounds=2", "--quiet"]) == 0
    fork = read_run(next(path for path in find_runs("runs") if path != folder))
    assert fork.manifest["numerics"] > 1 and [r.round for r in fork.rounds] == [0, 1, 2]


def test_what_is_recorded_of_private_rows_has_one_place(here):
    """``identity.data`` and ``inputs.data``: all else may be known."""
    (folder,) = find_runs("runs")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["inputs"]) == {"data", "weights", "tokenizer", "commit", "code"}
    assert set(manifest["inputs"]["data"]) == {"train"}
    assert {"tokens", "clients", "train"} < set(manifest["identity"]["data"])
    assert {"weights", "model", "tokenizer"} < set(manifest["identity"])


def test_the_noise_is_keyed_by_every_one_of_them():
    names = ("tokens", "clients", "weights", "model", "tokenizer")
    one = Loaded(*names)
    others = {Loaded(*(n if n != name else "x" for n in names)).digest for name in names}
    assert len(others | {one.digest}) == 6
    assert Loaded("clients", "tokens", *names[2:]).digest != one.digest
