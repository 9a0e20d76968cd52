"""Tags of words: spans against seqeval and by hand, first tokens, list columns, refusals, a run."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ffalora_cli.cli.main import main
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.data.encode import encode
from ffalora_cli.data.load import load_rows
from ffalora_cli.models.backbone import load_tokenizer
from ffalora_cli.tasks.token_classification import TASK, span_f1, spans
from tests.tiny import save_tiny_bert

JOB = plan(["task=conll2003", "privacy=none", "partition=iid"])[0].config
CONFIG, CLASSES = JOB.task, JOB.task.classes
ROWS = [
    {"tokens": ["EU", "rejects", "German", "call"], "ner_tags": [3, 0, 7, 0]},
    {"tokens": ["Peter", "Blackburn"], "ner_tags": [1, 2]},
    {"tokens": ["unbelievably", "long-winded", "\u200b", "Rome"], "ner_tags": [0, 0, 0, 5]},
]


def classes_of(*rows):
    tags = [row.split() for row in rows]
    numbers = [CLASSES.index(tag) for row in tags for tag in row]
    return np.cumsum([0, *map(len, tags)]), np.array(numbers)


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ("O B-PER I-PER O", {(1, 3, "PER")}),
        ("B-PER B-PER I-PER", {(0, 1, "PER"), (1, 3, "PER")}),
        ("I-PER I-PER O I-LOC", {(0, 2, "PER"), (3, 4, "LOC")}),  # none begins with B: they count
        ("B-PER I-LOC I-LOC", {(0, 1, "PER"), (1, 3, "LOC")}),  # another type is another span
        ("O O", set()),
    ],
)
def test_spans_by_hand(row, wanted):
    assert spans(CLASSES, *classes_of(row)) == wanted


def test_a_span_ends_with_its_row_and_f1_is_of_whole_spans():
    offsets, true = classes_of("B-PER", "I-PER O", "B-LOC I-LOC")
    assert spans(CLASSES, offsets, true) == {(0, 1, "PER"), (1, 2, "PER"), (3, 5, "LOC")}
    _, said = classes_of("B-PER", "O O", "B-LOC O")
    assert span_f1(CLASSES, offsets, true, said) == pytest.approx(2 * 1 / (3 + 2))
    assert span_f1(CLASSES, offsets, 0 * true, 0 * said) == 0


@pytest.mark.parametrize("seed", range(5))
def test_f1_is_that_of_seqeval(seed):
    seqeval = pytest.importorskip("seqeval.metrics")
    generator = np.random.default_rng(seed)
    offsets = np.r_[0, np.cumsum(generator.integers(1, 9, 60))]
    true = generator.integers(0, len(CLASSES), offsets[-1])
    said = np.where(generator.random(len(true)) < 0.7, true, generator.permutation(true))
    named = [
        [[CLASSES[tag] for tag in row] for row in np.split(tags, offsets[1:-1])]
        for tags in (true, said)
    ]
    found = span_f1(CLASSES, offsets, true, said)
    assert found == pytest.approx(seqeval.f1_score(*named)) and 0.2 < found < 0.9


def write(folder, rows, kind="jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "jsonl":
        (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    else:
        lines = (
            f"{' '.join(r['tokens'])}\t{' '.join(CLASSES[t] for t in r['ner_tags'])}" for r in rows
        )
        (folder / "train.tsv").write_text("\n".join(["tokens\tner_tags", *lines]))
    return str(folder.parent)


def test_rows_are_the_same_from_every_format(tmp_path):
    loaded = [
        load_rows(CONFIG, write(tmp_path / kind / "conll2003", ROWS[:2], kind), "train")
        for kind in ("parquet", "jsonl", "tsv")
    ]
    assert len({rows.fingerprint for rows in loaded}) == 1
    assert loaded[0].texts == (["EU rejects German call", "Peter Blackburn"],)
    assert loaded[0].targets.values.tolist() == [3, 0, 7, 0, 1, 2]


def byte_level():
    """A byte-level BPE without merges, as GPT-2's: every blank belongs to the word after it."""
    alphabet = {letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(alphabet, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128)
    fast.model_input_names = ["input_ids"]
    return fast


@pytest.mark.parametrize("kind", ["word_piece", "byte_level"])
@pytest.mark.parametrize("max_length", [128, 7])
def test_a_target_is_read_at_the_first_token_of_its_word(tmp_path, kind, max_length):
    tokenizer = load_tokenizer(JOB.model) if kind == "word_piece" else byte_level()
    rows = load_rows(CONFIG, write(tmp_path / "conll2003", ROWS), "train")
    found = encode(rows, tokenizer, max_length, CONFIG)
    ends = found.targets.offsets
    for row, line in enumerate(ROWS):
        own = slice(ends[row], ends[row + 1])
        positions, count = found.targets.positions[own], ends[row + 1] - ends[row]
        assert count == len(line["tokens"]) if max_length == 128 else 1 <= count < 5
        assert found.targets.values[own].tolist() == line["ner_tags"][:count]
        assert found.targets.weights[own] == pytest.approx(1 / count)
        ids = found.ids[found.offsets[row] : found.offsets[row + 1]]
        for word, position in zip(line["tokens"], positions, strict=False):
            token = tokenizer.decode([ids[position]]).strip()
            if word != "\u200b":  # three bytes; WordPiece makes nothing of it: it has the next's
                assert token and word.lower().startswith(token.lower())


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"tokens": ["a", "b"], "ner_tags": [0]}, r"ner_tags is 1 for 2 words; give one tag"),
        ({"tokens": ["a", "b"], "ner_tags": [0, 9]}, r"label 9|labels"),
        ({"tokens": ["a", ""], "ner_tags": [0, 0]}, r"tokens is .*; give a list of words"),
        ({"tokens": ["a b"], "ner_tags": [0]}, r"tokens is .*; give a list of words"),
        ({"tokens": [], "ner_tags": []}, r"tokens is .*; give a list of words"),
    ],
)
def test_rows_that_cannot_be_are_refused_with_their_line(tmp_path, row, said):
    data = write(tmp_path / "conll2003", [ROWS[0], row, ROWS[1]])
    with pytest.raises(ConfigError, match=rf"train\.jsonl.*2.*{said}"):
        load_rows(CONFIG, data, "train")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task.classes=[O]"], r"task\.classes"),
        (["task.classes=[O,O]"], r"task\.classes"),
        (["task.classes=[NOUN,VERB]"], "'NOUN' is no BIO tag"),
        (["task.text_columns=[a,b]"], r"task\.text_columns"),
        (["task.label_column=null"], r"task\.label_column"),
        (["partition=severe"], "deals rows by label"),
    ],
)
def test_configurations_that_cannot_be(words, said):
    with pytest.raises(ConfigError, match=said):
        plan(["task=conll2003", "privacy=none", "partition=iid", *words])


def test_a_private_run_is_scored_by_words_and_spans(tmp_path, capsys):
    lines = [
        {"tokens": ["in", name, "they", "met", str(n)], "ner_tags": [0, 5, 0, 0, 0]}
        for n, name in enumerate(["London", "Paris", "Rome", "Oslo"] * 12)
    ]
    for split in ("train", "validation"):
        folder = tmp_path / "data" / "conll2003"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    model, runs = save_tiny_bert(tmp_path / "model"), tmp_path / "runs"
    words = ["debug=tiny", "task=conll2003", "model=auto", f"model.source={model}", "partition=iid"]
    words += [f"paths.data={tmp_path / 'data'}", f"paths.runs={runs}", "privacy.accountant=rdp"]
    assert main(["run", *words]) == 0
    assert "span_f1" in capsys.readouterr().out
    (folder,) = (path for path in runs.iterdir() if path.is_dir())
    last = [json.loads(line)["metrics"] for line in (folder / "rounds.jsonl").open()][-1]
    assert 0 <= last["eval/span_f1"] <= 1 and 0 <= last["eval/token_accuracy"] <= 1
    assert (
        1.5 < last["eval/loss"] < 3
    )  # nine classes, hardly trained: about log 9, whatever a row has
    assert TASK.uninformed_loss(CONFIG) == pytest.approx(2.197, abs=1e-3)
