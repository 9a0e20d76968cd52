"""What spreadsheets, pandas and the datasets library write: read alike, or refused at the line."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.data.load import Rows, load_rows

TEXTS = ["a warm story", "far too long", "it is fine", "two hours gone"]
GOLD = [1, 0, 1, 0]
FORMATS = ("parquet", "jsonl", "csv", "tsv", "arrow")


def task(*texts: str, classes: Sequence[str] = ("bad", "good"), client: str | None = None):
    return TaskConfig(
        name="mine",
        version=1,
        text_columns=texts or ("text",),
        label_column="label",
        classes=tuple(classes),
        metrics=("accuracy",),
        splits={"train": "train", "validation": "validation", "test": "test"},
        eval_split="holdout",
        tune_split="holdout",
        client_column=client,
    )


def write(root: Path, kind: str, columns: dict[str, list[Any]], split: str = "train") -> Path:
    """The columns in a format of their own; a text format writes what pandas would."""
    folder = root / "mine"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}.{kind}"
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    if kind == "parquet":
        pq.write_table(pa.table(columns), path)
    elif kind == "arrow":
        path = folder / split / "data-00000-of-00001.arrow"
        path.parent.mkdir()
        table = pa.table(columns)
        with pa.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, columns, delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    return path


def written(root: Path, content: str | bytes, kind: str = "csv") -> Path:
    path = root / "mine" / f"train.{kind}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(root: Path, *texts: str, split: str = "train", **settings: Any) -> Rows:
    return load_rows(task(*texts, **settings), str(root), split)


def refusal(root: Path, *texts: str, split: str = "train", **settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read(root, *texts, split=split, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


LINES = [f"{text},{('bad', 'good')[label]}" for text, label in zip(TEXTS, GOLD, strict=True)]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_what_spreadsheets_write_is_read(tmp_path, separator, end, mark) -> None:
    lines = ["text,label", *LINES, "", '"semi;colon, and\ttab",good']
    text = mark + end.join(line.replace(",", separator, 1) for line in lines[:-1]) + end
    written(tmp_path, text + lines[-1].replace('",', f'"{separator}'))
    rows = read(tmp_path)
    assert rows.texts[0] == [*TEXTS, "semi;colon, and\ttab"]
    assert rows.targets.values.tolist() == [*GOLD, 1]


def test_a_quoted_header_decides_the_separator_too(tmp_path) -> None:
    written(tmp_path, '\ufeff"text";"label"\r\n"fine";"good"\r\n')
    assert read(tmp_path).texts[0] == ["fine"]


@pytest.mark.parametrize("kind", FORMATS)
def test_long_texts_are_read(tmp_path, kind) -> None:
    long = "word " * 30_000
    write(tmp_path, kind, {"text": [long, "short"], "label": [1, 0]})
    assert read(tmp_path).texts[0] == [long, "short"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('"the so-called sequel is long,bad\nshe said "wow",good', "line 5: a cell that opens"),
        ('"never closed,bad', "line 5: a cell that opens with a quote"),
        ("no label here", "line 5: label missing or empty, in 1 of 3 rows"),
        ("fine film,", "line 5: label missing or empty, in 1 of 3 rows"),
        (",good", "line 5: text missing or empty, in 1 of 3 rows"),
        ("a film, a good one,good", "line 5: 3 cells, the header has 2"),
        ("fine film,godo", "line 5: label='godo' is not one of the 2 classes"),
    ],
)
def test_a_csv_is_refused_at_the_line_an_editor_shows(tmp_path, line, said) -> None:
    """Line 2 holds two lines in quotes, line 4 is blank: neither a record's number."""
    path = written(tmp_path, f'text,label\n"two\nlines",good\n\n{line}\nlast,bad\n')
    assert refusal(tmp_path).startswith(f"{path}, {said}")


def test_bytes_that_are_not_utf8_are_refused_at_their_line(tmp_path) -> None:
    for kind in ("csv", "jsonl"):
        path = written(tmp_path, b"text,label\nfine,good\n\xff\xfe,bad\n", kind)
        assert f"{path}, line 3: not UTF-8" in refusal(tmp_path)
        path.unlink()


def test_spreadsheets_add_empty_cells_and_columns(tmp_path) -> None:
    written(tmp_path, "text,label,\nfine,good,,,\nlong,bad,\n")
    assert read(tmp_path).targets.values.tolist() == [1, 0]
    written(tmp_path, "text,label,text\nfine,good,other\n")
    assert "2 columns 'text'" in refusal(tmp_path)


def test_blank_lines_of_jsonl_are_passed_over_and_counted(tmp_path) -> None:
    good = '{"text": "fine", "label": 1}\n'
    written(tmp_path, "\ufeff" + good + "\n" + good + "\n", "jsonl")
    assert read(tmp_path).targets.values.tolist() == [1, 1]
    path = written(tmp_path, good + "\n" + '{"text": "no label"}\n' + good, "jsonl")
    assert refusal(tmp_path).startswith(f"{path}, line 3: label missing or empty, in 1 of 3 rows")
    for line in ("[1, 2]", '[["text", "a"], ["label", 0]]', "{"):
        path = written(tmp_path, good + "\n" + line + "\n", "jsonl")
        assert refusal(tmp_path).startswith(f"{path}, line 3: not a JSON object")


@pytest.mark.parametrize(
    ("column", "cell"), [("label", "good"), ("label", 2**64), ("text", 5), ("text", "\ud800")]
)
def test_a_cell_of_another_type_is_refused_at_its_line(tmp_path, column, cell) -> None:
    columns = {"text": [*TEXTS], "label": [*GOLD]}
    columns[column][2] = cell
    path = write(tmp_path, "jsonl", columns)
    assert refusal(tmp_path).startswith(f"{path}, line 3: {column}=")


def test_pieces_of_one_split_have_one_type_a_column(tmp_path) -> None:
    for piece, labels in enumerate((GOLD, ["good", "bad", "good", "bad"])):
        path = write(tmp_path, "parquet", {"text": TEXTS, "label": labels}, f"piece{piece}")
        path.rename(path.with_name(f"train-0000{piece}-of-00002.parquet"))
    assert "pieces of one split differ in their columns" in refusal(tmp_path)


def test_columns_without_a_value_dictionaries_and_wide_strings_are_read(tmp_path) -> None:
    nothing, wide = pa.nulls(4), pa.array(TEXTS, pa.large_string())
    labels = pa.array(["good", "bad", "good", "bad"]).dictionary_encode()
    write(tmp_path, "parquet", {"text": wide, "label": labels, "second": nothing})
    rows = read(tmp_path, "text", "second")
    assert rows.texts == (TEXTS, [""] * 4) and rows.empty_texts == 4
    assert rows.targets.values.tolist() == GOLD


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("column", ["text", "label", "who"])
@pytest.mark.parametrize("cell", [None, "", "  "])
def test_missing_and_empty_cells_follow_one_rule(tmp_path, kind, column, cell) -> None:
    columns = {"text": [*TEXTS], "label": ["good", "bad", "good", "bad"], "who": [*"abab"]}
    columns[column][1] = columns[column][3] = cell
    write(tmp_path, kind, columns)
    message = refusal(tmp_path, client="who")
    assert f"{column} missing or empty, in 2 of 4 rows" in message
    assert ("row 1 (the first is 0)" if kind in ("parquet", "arrow") else "line") in message


def test_what_pandas_makes_of_missing_labels_is_missing(tmp_path) -> None:
    write(tmp_path, "parquet", {"text": TEXTS, "label": [1.0, 0.0, float("nan"), 1.0]})
    assert "row 2 (the first is 0): label missing or empty, in 1 of 4" in refusal(tmp_path)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("cell", [None, ""])
def test_one_text_of_a_pair_may_be_empty_and_is_counted(tmp_path, kind, cell) -> None:
    columns = {"a": ["x", "y", "z"], "b": ["u", cell, "w"], "label": [1, 0, 1]}
    write(tmp_path, kind, columns)
    rows = read(tmp_path, "a", "b")
    assert rows.texts[1] == ["u", "", "w"] and rows.empty_texts == 1
    write(tmp_path / "both", kind, columns | {"a": ["x", cell, "z"]})
    assert "a and b missing or empty, in 1 of 3 rows" in refusal(tmp_path / "both", "a", "b")


def test_the_count_of_empty_texts_outlives_the_cache_and_stays_with_train(tmp_path) -> None:
    from ffalora_cli.compose.jobs import plan
    from ffalora_cli.data.dataset import prepare
    from ffalora_cli.models.backbone import load_tokenizer

    names = [f"n{i}" for i in range(20)]
    write(tmp_path, "csv", {"a": names, "b": [*names[:-1], ""], "label": [0, 1] * 10})
    tokenizer = load_tokenizer(plan([])[0].config.model)
    for cache in ("written", "read"):
        folders = (str(tmp_path), str(tmp_path / "cache"))
        facts = prepare(task("a", "b"), tokenizer, *folders, keep_together="text").facts
        assert (facts["train"]["cache"], facts["train"]["empty_texts"]) == (cache, 1)
        assert "empty_texts" not in facts["evals"]["holdout"]  # facts of it may be sent


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "labels",
    [GOLD, [float(v) for v in GOLD], [v == 1 for v in GOLD], ["good", "bad", "good", "bad"]],
    ids=["int", "float", "bool", "name"],
)
def test_labels_mean_the_same_in_every_format(tmp_path, kind, labels) -> None:
    write(tmp_path, kind, {"text": TEXTS, "label": labels})
    rows = read(tmp_path)
    assert rows.targets.values.tolist() == GOLD
    write(tmp_path / "plain", "parquet", {"text": TEXTS, "label": GOLD})
    assert rows.fingerprint == read(tmp_path / "plain").fingerprint


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([1, -1, 1, -1], "split 'train' has the labels -1 and 1, "),
        ([2, 1, 2.0, 1], "split 'train' has the labels 1 and 2, "),
        ([2, 0, 1, -1], "split 'train' has the labels -1, 0, 1 and 2, "),
        ([1, 7, 70, 700], "split 'train' has the labels 1, 7, 70 and 700, "),
        ([7, 7, 7, 7], "split 'train' has the label 7, "),
        ([-1, -1, -1, -1], "4 of 4 labels of split 'train' are withheld (-1)"),
    ],
)
def test_the_range_of_numbers_that_no_class_has_is_said(tmp_path, kind, labels, said) -> None:
    write(tmp_path, kind, {"text": TEXTS, "label": labels})
    message = refusal(tmp_path)
    assert said in message
    if "withheld" not in said:
        assert "numbers its 2 classes from 0 to 1" in message and "names (bad, good)" in message
        assert "eval_on" not in message  # it is what the run uses already


@pytest.mark.parametrize("kind", FORMATS)
def test_half_numbers_are_no_labels(tmp_path, kind) -> None:
    write(tmp_path, kind, {"text": TEXTS, "label": [1.0, 0.5, 1.0, 0.0]})
    assert "0.5" in refusal(tmp_path) and "not one of the 2 classes" in refusal(tmp_path)


def test_a_wide_range_is_said_by_its_ends(tmp_path) -> None:
    write(tmp_path, "csv", {"text": [*TEXTS, "more"], "label": [1, 2, 3, 4, 5]})
    assert "has the labels 1 to 5, " in refusal(tmp_path)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_withheld_labels_name_a_remedy_that_helps(tmp_path, split) -> None:
    write(tmp_path, "parquet", {"text": TEXTS, "label": [-1] * 4}, split)
    remedy = {"validation": "task.eval_split=holdout", "test": "task.eval_on=eval"}[split]
    message = refusal(tmp_path, split=split)
    assert "4 of 4" in message and message.endswith(remedy)


def library_set(names: Sequence[str]):
    import datasets

    label = datasets.ClassLabel(names=list(names))
    features = datasets.Features({"text": datasets.Value("string"), "label": label})
    return datasets.Dataset.from_dict({"text": TEXTS, "label": GOLD}, features)


def test_the_files_own_class_names_count_not_its_numbers(tmp_path) -> None:
    path = written(tmp_path, "", "parquet")
    library_set(["good", "bad"]).to_parquet(str(path))
    assert read(tmp_path).targets.values.tolist() == [0, 1, 0, 1]
    library_set(["neg", "pos"]).to_parquet(str(path))
    message = refusal(tmp_path)
    assert "label='pos' is not one of the 2 classes" in message and "task.classes" in message


@pytest.mark.parametrize("shards", [1, 3])
def test_folders_of_save_to_disk_are_read(tmp_path, shards) -> None:
    import datasets

    saved = datasets.DatasetDict({"train": library_set(["bad", "good"])})
    saved.save_to_disk(str(tmp_path / "mine"), num_shards={"train": shards})
    rows = read(tmp_path)
    assert rows.texts[0] == TEXTS and rows.targets.values.tolist() == GOLD
    (tmp_path / "mine" / "train" / f"data-00000-of-0000{shards}.arrow").unlink()
    assert refusal(tmp_path).startswith((f"{tmp_path}/mine has", f"{tmp_path}/mine/train"))


@pytest.mark.parametrize("folder", ["", "data"])
def test_file_names_of_the_hub_are_read_in_order(tmp_path, folder) -> None:
    first, second = (
        tmp_path / "mine" / folder / f"train-0000{piece}-of-00002.parquet" for piece in (0, 1)
    )
    first.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": TEXTS[2:], "label": ["good", None]}), second)
    pq.write_table(pa.table({"text": TEXTS[:2], "label": ["good", "bad"]}), first)
    assert refusal(tmp_path).startswith(f"{second}, row 1 (the first is 0): label missing")
    pq.write_table(pa.table({"text": TEXTS[2:], "label": ["good", "bad"]}), second)
    rows = read(tmp_path)
    assert rows.texts[0] == TEXTS and rows.targets.values.tolist() == GOLD
    first.unlink()
    message = refusal(tmp_path)
    assert "has 1 pieces of 'train'" in message and "one each of 2" in message


def test_damaged_arrow_files_are_read_or_refused(tmp_path) -> None:
    path = write(tmp_path, "arrow", {"text": TEXTS, "label": GOLD})
    good, rng, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        damaged = bytearray(good)
        damaged[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged[: rng.randrange(len(good) // 2, 2 * len(good))])
        try:
            read(tmp_path)
        except ConfigError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
            refused += 1
    assert refused > 100


def test_the_fingerprint_of_pieces_follows_every_piece(tmp_path) -> None:
    from ffalora_cli.data.sources.source import locate

    seen = set()
    for texts in (TEXTS, TEXTS[::-1]):
        for piece, part in enumerate((TEXTS, texts)):
            path = tmp_path / "mine" / f"train-0000{piece}-of-00002.csv"
            path.parent.mkdir(exist_ok=True)
            path.write_text("text,label\n" + "".join(f"{text},good\n" for text in part))
        seen.add(locate(task(), str(tmp_path), "train").fingerprint)
    assert len(seen) == 2
