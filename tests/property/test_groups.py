"""Groups of rows in partitions and hold-outs: whole, everywhere once, near the counts asked for."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import PartitionConfig
from ffalora_cli.data.groups import group_rows, normalised, text_keys
from ffalora_cli.data.holdout import cut_holdout, keys_together
from ffalora_cli.data.partition.dealing import deal
from ffalora_cli.data.partition.partition import ClientRows, fingerprint, partition

CLASSES = 3
NAMES = ("iid", "dirichlet", "quantity", "shards", "label_mix")
SPLITS = st.tuples(st.sampled_from(NAMES), st.integers(0, 99), st.floats(0.1, 10))


def scheme(name: str, seed: int = 7, alpha: float = 0.5, smallest: int = 0) -> PartitionConfig:
    return PartitionConfig(name, seed, alpha, smallest, 100, "severe", 2)  # type: ignore[arg-type]


def random_rows(seed: int, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and keys of rows in groups of 1 to ``largest`` rows, most of one label, shuffled."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, largest + 1, 60)
    keys = np.repeat(generator.integers(0, 2**63, 60).astype(np.uint64), sizes)
    labels = np.repeat(generator.integers(0, CLASSES, 60), sizes)
    stray = generator.random(len(keys)) < 0.1
    labels[stray] = generator.integers(0, CLASSES, int(stray.sum()))
    order = generator.permutation(len(keys))
    return labels[order], keys[order]


def owners(split: ClientRows, rows: int) -> np.ndarray:
    owner = np.full(rows, -1)
    owner[split.rows] = np.repeat(np.arange(len(split)), split.sizes)
    return owner


@settings(max_examples=150, deadline=None)
@given(SPLITS, st.integers(0, 999), st.integers(1, 9))
def test_no_group_is_on_two_clients_and_every_row_on_one(split, seed, largest) -> None:
    name, draw, alpha = split
    labels, keys = random_rows(seed, largest)
    found = partition(scheme(name, draw, alpha), labels, CLASSES, 3, together=keys)
    owner = owners(found, len(labels))
    assert (owner >= 0).all() and len(found.rows) == len(labels)
    for key in np.unique(keys):
        assert len(set(owner[keys == key])) == 1


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 999), st.integers(1, 9), st.integers(2, 6))
def test_counts_are_as_near_as_whole_groups_allow(seed, largest, clients) -> None:
    labels, keys = random_rows(seed, largest)
    sizes = partition(scheme("iid", seed), labels, CLASSES, clients, together=keys).sizes
    assert sizes.max() - sizes.min() <= largest
    alone = group_rows(np.zeros_like(labels), keys).sizes == 1
    if alone.sum() >= largest * clients:  # single rows fill up what whole groups leave
        assert sizes.max() - sizes.min() <= 1


@settings(max_examples=60, deadline=None)
@given(SPLITS, st.integers(0, 99))
def test_groups_of_one_row_are_rows(split, seed) -> None:
    name, draw, alpha = split
    labels = np.random.default_rng(seed).integers(0, CLASSES, 200)
    keys = np.random.default_rng(seed + 1).permutation(200).astype(np.uint64)
    one = partition(scheme(name, draw, alpha), labels, CLASSES, 3, together=keys)
    assert fingerprint(one) == fingerprint(partition(scheme(name, draw, alpha), labels, CLASSES, 3))


ROW_BY_ROW = {  # made before there were groups
    "iid": "edf9f1842aa695470bb1e8e917bdb770",
    "dirichlet": "b3596b5157daeeaf8e4df44e101a1b13",
    "quantity": "29d732c12eaa0febe560bb7fdd363522",
    "label_mix": "5a34c54cbef5871c19f6f288d15ce54a",
    "shards": "ab064039eea6c226c293cf59e0e88ff1",
}


def golden_labels() -> np.ndarray:
    return np.random.default_rng(5).choice(3, 3000, p=[0.5, 0.3, 0.2])


@pytest.mark.parametrize("name", ROW_BY_ROW)
def test_rows_dealt_one_by_one_keep_their_bits(name: str) -> None:
    split = partition(scheme(name, smallest=1), golden_labels(), 3, 3)
    assert fingerprint(split) == ROW_BY_ROW[name]


def test_holdout_of_rows_keeps_its_bits() -> None:
    texts = np.random.default_rng(6).integers(0, 2**63, 900).astype(np.uint64)
    keys = texts[np.random.default_rng(8).integers(0, 900, 3000)]
    _, held = cut_holdout(golden_labels(), keys, 3, 0.1, 2024, alone=True)
    digest = hashlib.blake2b(held.astype("<i8").tobytes(), digest_size=16).hexdigest()
    assert (len(held), digest) == (295, "e00b5126678ec2c8e5cee6af91319074")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 999), st.integers(1, 9), st.floats(0.05, 0.5))
def test_holdout_takes_whole_groups_near_its_share(seed, largest, fraction) -> None:
    labels, keys = random_rows(seed, largest)
    groups = group_rows(labels, keys)
    strata = groups.strata[groups.of_row]
    kept, held = cut_holdout(strata, keys, CLASSES, fraction, seed)
    assert np.array_equal(np.sort(np.concatenate([kept, held])), np.arange(len(labels)))
    assert not np.isin(keys[held], keys[kept]).any()
    for label in range(CLASSES):
        there, wanted = (strata == label).sum(), fraction * (strata == label).sum()
        if there:
            assert abs((strata[held] == label).sum() - wanted) <= largest
    order = np.random.default_rng(seed).permutation(len(labels))
    _, again = cut_holdout(strata[order], keys[order], CLASSES, fraction, seed)
    assert set(order[again]) == set(held)


def test_a_large_group_does_not_end_a_holdout() -> None:
    """Of a person with half of all rows and many with few, the many are held out."""
    keys = np.repeat(np.arange(101, dtype=np.uint64), [1000] + [10] * 100)
    for seed in range(5):
        _, held = cut_holdout(np.zeros(2000, dtype=int), keys, 1, 0.1, seed)
        assert len(held) == 200 and 0 not in keys[held]


def test_a_group_somewhat_above_the_share_is_nearer_than_none() -> None:
    keys = np.repeat(np.arange(2, dtype=np.uint64), [12, 88])
    for seed in range(5):
        _, held = cut_holdout(np.zeros(100, dtype=int), keys, 1, 0.1, seed)
        assert held.tolist() == list(range(12))


def test_a_group_counts_with_its_commonest_label_ties_with_the_lowest() -> None:
    keys = np.array([9, 4, 9, 4, 4, 7, 9, 9], dtype=np.uint64)
    labels = np.array([2, 1, 0, 1, 0, 2, 2, 0])
    groups = group_rows(labels, keys)
    assert groups.of_row.tolist() == [0, 1, 0, 1, 1, 2, 0, 0]
    assert groups.sizes.tolist() == [4, 3, 1]
    assert groups.strata.tolist() == [0, 1, 2]


def test_the_largest_groups_go_to_who_lacks_most() -> None:
    keys = np.repeat(np.arange(5, dtype=np.uint64), [8, 5, 4, 1, 2])
    groups = group_rows(np.zeros(20, dtype=int), keys)
    owner = deal(np.array([[10, 10]]), groups, 0)
    sizes = np.bincount(owner, groups.sizes)
    assert sizes.tolist() == [10, 10]


def test_more_clients_than_groups_are_refused_in_one_line() -> None:
    keys = np.repeat(np.arange(4, dtype=np.uint64), 10)
    with pytest.raises(ConfigError) as caught:
        partition(scheme("iid"), np.zeros(40, dtype=int), 1, 5, together=keys)
    assert "num_clients=5 is more than the 4 groups" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dealt_clients_meet_the_minimum_with_whole_groups_too() -> None:
    """A draw whose counts would do, but not with groups of nine rows, is drawn again."""
    labels, keys = np.zeros(270, dtype=int), np.repeat(np.arange(30, dtype=np.uint64), 9)
    for seed in range(20):
        split = partition(scheme("quantity", seed, 0.3, smallest=3), labels, 1, 3, together=keys)
        assert split.sizes.min() >= 9


def test_natural_leaves_shared_texts_where_they_are() -> None:
    clients = np.array([0, 1, 0, 1])
    keys = np.array([5, 5, 6, 7], dtype=np.uint64)
    split = partition(scheme("natural"), np.zeros(4, dtype=int), 1, 2, clients, keys)
    assert [split.of(k).tolist() for k in range(2)] == [[0, 2], [1, 3]]


SAME = [
    ("A  Film", "a film"),
    (" naïve\t", "nai\u0308ve"),
    ("ﬁne Ａ", "fine a"),
    ("STRASSE", "straße"),
    ("one\u00a0\u2003two\n", "One two"),
]


@pytest.mark.parametrize("left, right", SAME)
def test_texts_that_differ_in_form_case_or_blanks_are_one(left: str, right: str) -> None:
    assert normalised(left) == normalised(right)
    keys = text_keys(([left, right, left],))
    assert keys[0] == keys[1] == keys[2]


def test_columns_are_kept_apart_and_words_too() -> None:
    keys = text_keys((["a b", "a", "a b", "ab"], ["c", "b c", "c ", "c"]))
    assert len(set(keys.tolist())) == 3 and keys[0] == keys[2]
    assert text_keys((["a\x1f"], ["b"])) != text_keys((["a"], ["\x1fb c"]))


@given(st.text(max_size=20))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


def test_what_is_dealt_as_one() -> None:
    rows = SimpleNamespace(hashes=1, text_keys=2, unit_keys=3)
    kept = {word: keys_together(rows, word) for word in ("row", "text", "who")}
    assert kept == {"row": None, "text": 2, "who": 3}
