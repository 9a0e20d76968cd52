"""``ffalora new task``: what is guessed, written and said of rows of one's own; and then a run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from ffalora_cli.cli.main import main
from ffalora_cli.compose import catalogue
from ffalora_cli.compose.chosen import as_experiment
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.data.columns import columns_of
from ffalora_cli.data.guess import guess
from ffalora_cli.data.load import load_rows
from ffalora_cli.data.sources.readers import READERS
from ffalora_cli.tasks import registry
from tests.tiny import save_tiny_bert

TOPICS = ("World", "Sports", "Business", "Sci/Tech")
NEWS = [
    f'{n},{topic} news number {n},"what happened, in {topic}, for the {n}th time",{topic}'
    for n, topic in enumerate(TOPICS * 6)
]
CSV = "\n".join(["id,title,body,topic", *NEWS]) + "\n"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def described(capsys, *words: str, expected: int = 0) -> tuple[str, dict]:
    """What is printed, blanks as one, and the task as it is written."""
    assert main(["new", "task", *words]) == expected, capsys.readouterr().err
    captured = capsys.readouterr()
    file = next(iter(sorted(Path("configs/task").glob("*.yaml"))), None)
    return " ".join((captured.out + captured.err).split()), file and yaml.safe_load(
        file.read_text()
    )


def typed(plain: dict) -> TaskConfig:
    """The task as a run has it: its folder from here."""
    lists = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    folder = plain["folder"] and os.path.normpath(Path("configs/task") / plain["folder"])
    return TaskConfig(**{**lists, "folder": folder})


def test_a_csv_with_a_pair_of_texts_and_four_classes(capsys):
    Path("my.csv").write_text(CSV, encoding="utf-8")
    said, task = described(capsys, "my.csv")
    for words in (
        "my.csv, 24 rows, 4 columns (id, title, body, topic)",
        "text_classification: topic has 4 values",
        "title, body: a pair",
        "Business 25.0 %, Sci/Tech 25.0 %, Sports 25.0 %, World 25.0 %",
        "not read id",
        "ffalora run experiment=quickstart task=my",
    ):
        assert words in said
    assert task["text_columns"] == ["title", "body"] and task["label_column"] == "topic"
    assert task["classes"] == sorted(TOPICS) and task["splits"] == {"train": "my.csv"}
    assert task["folder"] == "../.."
    rows = load_rows(typed(task), None, "train")
    assert rows.targets.values.tolist() == [sorted(TOPICS).index(topic) for topic in TOPICS * 6]


def test_nothing_is_written_over_and_names_are_ones_own(capsys):
    Path("my.csv").write_text(CSV, encoding="utf-8")
    described(capsys, "my.csv")
    before = Path("configs/task/my.yaml").read_text()
    said, _ = described(capsys, "my.csv", "--text", "body", expected=2)
    assert "--force" in said and Path("configs/task/my.yaml").read_text() == before
    _, task = described(capsys, "my.csv", "--text", "body", "--force")
    assert task["text_columns"] == ["body"]
    said, _ = described(capsys, "my.csv", "--name", "sst2", expected=2)
    assert "--name" in said and not Path("configs/task/sst2.yaml").exists()
    said, _ = described(capsys, "my.csv", "--label", "tpic", "--name", "b", expected=2)
    assert "did you mean 'topic'" in said


ROWS = {
    "regression": [{"a": f"first {n} words", "b": f"other {n}", "score": n / 7} for n in range(20)],
    "causal_lm": [{"prompt": f"say {n}", "completion": f"it is {n} then"} for n in range(20)],
    "token_classification": [
        {"tokens": ["Ada", "sat", str(n)], "ner_tags": ["B-PER", "O", "O"]} for n in range(20)
    ],
    "text_classification": [
        {"text": f"a row of {n} words", "label": n % 3, "label_text": "xyz"[n % 3]}
        for n in range(20)
    ],
}


@pytest.mark.parametrize("kind", ROWS)
def test_every_kind_is_known_by_its_columns_and_has_its_keys_alone(kind, capsys):
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, ROWS[kind])), encoding="utf-8")
    said, task = described(capsys, "rows.jsonl")
    assert task["kind"] == kind and f"{kind}: " in said
    shipped = Path(__file__).parents[2] / "configs" / "task"
    alike = [yaml.safe_load(file.read_text()) for file in shipped.glob("*.yaml")]
    keys = [set(other) for other in alike if other.get("kind") == kind]
    assert not keys or set(task) in keys  # no regression lies in fewer keys than another
    config = typed(task)
    registry.get(kind).check(config)
    assert len(load_rows(config, None, "train")) == 20
    if kind == "text_classification":
        assert task["classes"] == ["x", "y", "z"]  # in words, as the other column has them


def test_chats_are_known_by_their_roles():
    import pyarrow

    from ffalora_cli.data.sources.readers import Table

    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    found = guess(columns_of(Table(pyarrow.table({"messages": [chat, chat]}), str)))
    assert found.fields["kind"] == "causal_lm" and found.fields["messages_column"] == "messages"


def test_images_by_class(capsys):
    image = pytest.importorskip("PIL.Image")
    for split, number in (("train", 3), ("test", 1)):
        for name in ("cat", "dog"):
            folder = Path("pets", split, name)
            folder.mkdir(parents=True)
            for n in range(number):
                image.new("RGB", (8, 8), (n, 0, 9)).save(folder / f"{n}.png")
    _, task = described(capsys, "pets")
    assert task["kind"] == "image_classification" and task["classes"] == ["cat", "dog"]
    assert task["splits"] == {"train": "train", "test": "test"} and "max_length" not in task
    assert load_rows(typed(task), None, "test").targets.values.tolist() == [0, 1]


@pytest.mark.parametrize("words", [("rows_train.csv", "rows_test.csv"), ("folder",)])
def test_several_files_are_splits_by_their_names(words, capsys):
    Path("folder").mkdir()
    for name in ("rows_train.csv", "rows_test.csv", "folder/train.csv", "folder/test.csv"):
        Path(name).write_text(CSV, encoding="utf-8")
    _, task = described(capsys, *words)
    assert set(task["splits"]) == {"train", "test"} and task["eval_split"] == "holdout"
    assert len(load_rows(typed(task), None, "test")) == 24
    said, _ = described(capsys, "rows_train.csv", "--name", "alone")
    assert "rows_test.csv is not read" in said


LABELS = {
    "1.0 2.0 3.0": ["1", "2", "3"],
    "-1 1": ["-1", "1"],
    "no yes": ["no", "yes"],
    "true false": ["false", "true"],
    "10 9 2": ["2", "9", "10"],
}


@pytest.mark.parametrize("labels", LABELS)
def test_labels_keep_their_meaning_however_they_are_written(labels, capsys):
    """A class is called as the file calls it; the row's index is that class's place."""
    values = labels.split() * 4
    text = "text,label\n" + "".join(f"row {n} says it,{v}\n" for n, v in enumerate(values))
    Path("my.csv").write_text(text, encoding="utf-8")
    _, task = described(capsys, "my.csv")
    assert task["classes"] == LABELS[labels]
    found = load_rows(typed(task), None, "train").targets.values.tolist()
    said = [task["classes"][index] for index in found]
    assert said == [v.removesuffix(".0") for v in values]


def test_numbers_written_in_two_ways_are_one_class_and_it_is_said(capsys):
    rows = [f"text {n},{('01', '1', '2.0', '2', '3')[n % 5]}" for n in range(20)]
    Path("my.csv").write_text("\n".join(["text,stars", *rows]) + "\n", encoding="utf-8")
    said, task = described(capsys, "my.csv")
    assert "stars: read as one class, as a run reads them: 01, 1 are 1, 2, 2.0 are 2" in said
    assert task["classes"] == ["1", "2", "3"]


def test_what_a_run_would_refuse_is_said_and_where(capsys):
    file = Path("my.csv")
    file.write_text(CSV + "99,a title,a body,\n98,,,World\n", encoding="utf-8")
    said, _ = described(capsys, "my.csv")
    assert "my.csv, line 27: title and body missing or empty, in 1 of 26 rows" in said
    assert "title in 1 row, body in 1 row" in said
    otherwise = f"{NEWS[0].rpartition(',')[0]},Sports"
    file.write_text("\n".join([CSV.strip(), NEWS[1], otherwise]))
    said, _ = described(capsys, "my.csv", "--force")
    assert "2 rows of a text that stood above; 1 text with several labels" in said
    assert "line 2, line 27" in said


# what stands in the header or in a cell -> what the line must say
UNSAYABLE = {
    "no columns": ("", "my.csv is empty"),
    "blank lines": ("\n\n", "my.csv is empty"),
    "column is a reference": ("text,${oc.env:HOME}\n" + "a b,x\nc d,y\n" * 4, "is a reference"),
    "label is a reference": ("text,label\n" + "a b,${name}\nc d,y\n" * 4, "is a reference"),
    "column of two lines": ('"te\nxt",label\n' + "a b,x\nc d,y\n" * 4, "control characters"),
    "label of two lines": ("text,label\n" + 'a b,"x\nz"\nc d,y\n' * 4, "control characters"),
    "label steers": ("text,label\n" + "a b,\x1b[31m\nc d,y\n" * 4, "control characters"),
    "a name outside": ("text,label\n" + "a b,x\nc d,y\n" * 4, "--name", "my.csv", "../x"),
    "no name": ("text,label\n" + "a b,x\nc d,y\n" * 4, "--name NAME", "null.csv"),
}


@pytest.mark.parametrize("case", UNSAYABLE)
def test_what_no_task_could_say_is_one_line_and_no_file(case, capsys):
    content, said, *more = UNSAYABLE[case]
    name = (*more, "my.csv")[0]
    Path(name).write_text(content, encoding="utf-8")
    assert main(["new", "task", name, *(f"--name={called}" for called in more[1:])]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and os.listdir() == [name]


@pytest.mark.parametrize("name", ["true", "123", "1e3", "nan", "no"])
def test_a_task_may_be_called_what_hydra_or_yaml_takes_for_something_else(name, capsys):
    labels = ("1e3", "x: #", "null", "yes")
    text = "text,label,\x1b[2Jmore\n" + "".join(f"row {n} is,{labels[n % 4]},\n" for n in range(8))
    Path(f"{name}.csv").write_text(text, encoding="utf-8")
    said, _ = described(capsys, f"{name}.csv")
    assert "\x1b" not in said
    Path("configs/experiment").mkdir()
    chosen = as_experiment([f"task={name}", "privacy=none", "paths.plugins=null"], "what it is")
    Path("configs/experiment/chosen.yaml").write_text(chosen, encoding="utf-8")
    catalogue._options.cache_clear()
    for words in ([f"task={name}"], ["experiment=chosen"], [f"task={name},bbc_news"]):
        job = plan(words, sweep="," in words[0])[0]
        assert job.config.task.name == name and len(load_rows(job.config.task, None, "train")) == 8
        assert job.config.task.classes == tuple(sorted(labels))
        assert plan(job.overrides)[0].signature == job.signature


NAIVE = {
    "run task=my.csv": "my.csv",
    "run task=my": "my.csv",
    "run data=my.csv": "my.csv",
    "run paths.data=my.csv": "my.csv",
    "run paths.data=. task=my": "my.csv",
    "plan dataset=./my.csv": "./my.csv",
    "run my.csv": "my.csv",
    "my.csv": "my.csv",
    "new my.csv": "my.csv",
    "task=my.csv": "my.csv",
    "experiment=quickstart data=my.csv": "my.csv",
    "experiment=quickstart paths.data=my.csv": "my.csv",
}


@pytest.mark.parametrize("words", NAIVE)
def test_naive_tries_name_the_command(words, capsys):
    Path("my.csv").write_text(CSV, encoding="utf-8")
    assert main(words.split()) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert f"ffalora new task {NAIVE[words]}" in line and not captured.out
    assert os.listdir() == ["my.csv"]


CONFIGS = {
    "run --config-dir cfg task=sst2": "ffalora new task my.csv --to cfg",
    "run hydra.searchpath=[cfg]": "--config-dir DIR",
    "--config-dir cfg task=sst2": "ffalora run --config-dir cfg task=sst2",
}


@pytest.mark.parametrize("words", CONFIGS)
def test_folders_of_configurations_name_the_right_command(words, capsys):
    Path("cfg").mkdir()
    assert main(words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert CONFIGS[words] in line and os.listdir() == ["cfg"]


def test_a_known_folder_is_no_naive_try(capsys):
    Path("data").mkdir()
    Path("data.csv").write_text(CSV, encoding="utf-8")
    assert main(["run", "paths.data=data", "task=sst2"]) == 2
    assert "new task" not in capsys.readouterr().err


def test_the_endings_of_rows_are_those_that_are_read():
    from ffalora_cli.config.own_rows import ENDINGS

    assert set(ENDINGS) == set(READERS)


def test_a_project_that_moved_is_the_same_run_and_changed_rows_are_not(place, monkeypatch, capsys):
    """Identity rests on what the rows say, not on where they lie; the task's file finds them."""
    first, moved, elsewhere = (place / name for name in ("first", "moved", "elsewhere"))
    first.mkdir()
    elsewhere.mkdir()
    save_tiny_bert(place / "model")
    monkeypatch.chdir(first)
    Path("my.csv").write_text(CSV, encoding="utf-8")
    described(capsys, "my.csv")
    words = ["run", "task=my", "model=auto", f"model.source={place / 'model'}", "debug=tiny"]
    words += ["privacy=none", "partition=iid", "federation.local_batch_size=2"]
    assert main(words) == 0, capsys.readouterr().err
    (run,) = (first / "runs").iterdir()
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["task"]["folder"] == "."  # nothing of this machine
    first.rename(moved)
    monkeypatch.chdir(moved)
    assert main(words) == 0 and len(os.listdir("runs")) == 1
    monkeypatch.chdir(elsewhere)
    away = [f"--config-dir={moved / 'configs'}", f"paths.runs={moved / 'runs'}"]
    assert main([*words, *away]) == 0 and len(os.listdir(moved / "runs")) == 1
    monkeypatch.chdir(moved)
    capsys.readouterr()
    Path("my.csv").write_text(CSV.replace("news number 3", "news number three"), encoding="utf-8")
    assert main(words) == 2
    assert "data of split train changed" in capsys.readouterr().err
    Path("my.csv").unlink()
    assert main(words) == 2
    assert "my.csv is not there" in capsys.readouterr().err


ROW = "text,label\n" + "".join(f"row {n} says it,{'ab'[n % 2]}\n" for n in range(24))
FILES = {
    "mark.csv": "\ufeff" + ROW.replace("\n", "\r\n"),
    "semicolons.csv": ROW.replace(",", ";"),
    "tabs.tsv": ROW.replace(",", "\t"),
    "short.csv": ROW + "no label here\n",
    "missing.csv": ROW + "no label here,\n",
    "quote.csv": ROW + '"never closed,a\n',
}


@pytest.mark.parametrize("name", FILES)
def test_files_as_spreadsheets_and_people_write_them(name, capsys):
    Path(name).write_bytes(FILES[name].encode())
    said, task = described(capsys, name, expected=2 * (name == "quote.csv"))
    if name == "quote.csv":
        assert "line 26" in said and not Path("configs").exists()
        return
    assert task["classes"] == ["a", "b"] and task["text_columns"] == ["text"]
    assert ("line 26: label missing" in said) == (name in ("short.csv", "missing.csv"))
    if "line 26" not in said:
        assert len(load_rows(typed(task), None, "train")) == 24


@pytest.mark.parametrize("way", ["one", "splits", "pieces"])
def test_what_the_library_datasets_writes(way, capsys):
    """Names of a ClassLabel, in its own order: good is number 0 there."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["good", "bad"])}
    )
    rows = {"text": [f"row {n} says it" for n in range(24)], "label": [0, 1, 1] * 8}
    made = datasets.Dataset.from_dict(rows, features=features)
    if way == "one":
        made.save_to_disk("mine")
    elif way == "splits":
        datasets.DatasetDict({"train": made, "test": made}).save_to_disk("mine")
    else:
        Path("mine/data").mkdir(parents=True)
        made.to_parquet("mine/data/train-00000-of-00001.parquet")
    _, task = described(capsys, "mine")
    assert task["classes"] == ["good", "bad"] and ("test" in task["splits"]) == (way == "splits")
    assert load_rows(typed(task), None, "train").targets.values.tolist() == [0, 1, 1] * 8


def test_a_repository_that_cannot_be_asked_for_names_what_helps(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "task", "someone/thing"]) == 2
    said = capsys.readouterr().err
    assert "give them: ffalora new task FILE" in said and "someone/thing" in said
    assert "paths.data" not in said and "task=" not in said
