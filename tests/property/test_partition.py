"""Partitions: every row once, sizes and mixes as defined, equal for equal seeds, or refused."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import PartitionConfig
from ffalora_cli.data.partition.partition import ClientRows, fingerprint, partition, strata_table

SST2 = np.repeat([0, 1], [29780, 37569])
MNLI = np.repeat([0, 1, 2], [130899, 130900, 130903])


def config(name: str, **changes: object) -> PartitionConfig:
    defaults = {"min_client_size": 0, "dirichlet_alpha": 0.5, "shards_per_client": 2}
    return PartitionConfig(**({"name": name, "seed": 0} | defaults | changes))  # type: ignore[arg-type]


SCHEMES = st.one_of(
    st.builds(lambda s: config("iid", seed=s), st.integers(0, 99)),
    st.builds(
        lambda name, s, a: config(name, seed=s, dirichlet_alpha=a),
        st.sampled_from(["dirichlet", "quantity"]),
        st.integers(0, 99),
        st.floats(1e-3, 1e3),
    ),
    st.builds(
        lambda s, k: config("shards", seed=s, shards_per_client=k),
        st.integers(0, 99),
        st.integers(1, 3),
    ),
)


def random_labels(seed: int, rows: int, classes: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, rows)


def assert_uses_rows_once(split: ClientRows, rows: int) -> None:
    assert np.array_equal(np.sort(split.rows), np.arange(rows))
    assert split.offsets[0] == 0 and split.offsets[-1] == rows
    assert (split.sizes >= 0).all()


@settings(max_examples=150, deadline=None)
@given(SCHEMES, st.integers(60, 300), st.integers(1, 20), st.integers(2, 6), st.integers(0, 9))
def test_every_row_goes_to_exactly_one_client(scheme, rows, clients, classes, seed) -> None:
    labels = random_labels(seed, rows, classes)
    split = partition(scheme, labels, classes, clients)
    assert len(split) == clients
    assert_uses_rows_once(split, rows)
    table = strata_table(split, labels, classes)
    assert np.array_equal(table.sum(axis=1), split.sizes)
    assert np.array_equal(table.sum(axis=0), np.bincount(labels, minlength=classes))
    for client in range(clients):
        mine = split.of(client)
        assert (np.diff(mine) > 0).all()
        assert np.array_equal(table[client], np.bincount(labels[mine], minlength=classes))
    assert fingerprint(partition(scheme, labels, classes, clients)) == fingerprint(split)


@pytest.mark.parametrize("name", ["iid", "dirichlet", "label_mix", "shards", "quantity"])
def test_another_seed_deals_other_rows(name: str) -> None:
    splits = [partition(config(name, seed=s, label_mix="mild"), SST2, 2, 3) for s in (0, 1)]
    assert fingerprint(splits[0]) != fingerprint(splits[1])


def test_iid_is_even_in_size_and_label() -> None:
    split = partition(config("iid"), SST2, 2, 10)
    assert split.sizes.max() - split.sizes.min() <= 1
    shares = strata_table(split, SST2, 2)[:, 1] / split.sizes
    spread = np.sqrt(0.558 * 0.442 / 6735)
    assert np.abs(shares - 37569 / 67349).max() < 4 * spread


def test_severe_sst2_is_the_golden_split() -> None:
    split = partition(config("label_mix", label_mix="severe"), SST2, 2, 3)
    assert split.sizes.tolist() == [24526, 20373, 22450]
    table = strata_table(split, SST2, 2)
    assert table.tolist() == [[1985, 22541], [17868, 2505], [9927, 12523]]
    assert_uses_rows_once(split, len(SST2))


@pytest.mark.parametrize(
    "mix, labels, shares",
    [
        ("mild", SST2, [[0.1, 0.85 / 1.5], [0.85 / 1.5, 0.1], [1 / 3, 1 / 3]]),
        ("severe", MNLI, [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]]),
        ("mild", MNLI, [[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]]),
    ],
)
def test_label_mixes_are_shares_normalised_by_class(mix, labels, shares) -> None:
    classes = len(shares[0])
    split = partition(config("label_mix", label_mix=mix), labels, classes, 3)
    expected = np.array(shares) * np.bincount(labels)
    assert np.abs(strata_table(split, labels, classes) - expected).max() <= 1
    assert_uses_rows_once(split, len(labels))


@pytest.mark.parametrize("concentration", [0.2, 1.0, 5.0])
def test_dirichlet_shares_have_the_moments_of_the_law(concentration: float) -> None:
    """Over K clients a share has mean 1/K and variance (K - 1) / (K^2 (K * alpha + 1))."""
    clients, classes, each = 10, 200, 5000
    labels = np.repeat(np.arange(classes), each)
    scheme = config("dirichlet", dirichlet_alpha=concentration)
    table = strata_table(partition(scheme, labels, classes, clients), labels, classes)
    variance = ((table / each - 1 / clients) ** 2).mean()
    assert variance == pytest.approx(
        (clients - 1) / (clients**2 * (clients * concentration + 1)), rel=0.15
    )


def test_tiny_concentration_gives_each_class_to_one_client() -> None:
    labels = np.repeat(np.arange(50), 100)
    table = strata_table(
        partition(config("dirichlet", dirichlet_alpha=1e-5), labels, 50, 4), labels, 50
    )
    assert (table.max(axis=0) == 100).all()
    assert (table.sum(axis=1) > 0).all()  # no client is favoured by underflow


def test_quantity_skews_sizes_but_not_labels() -> None:
    split = partition(config("quantity", dirichlet_alpha=1.0), SST2, 2, 8)
    assert split.sizes.max() > 2 * split.sizes.min()
    shares = strata_table(split, SST2, 2)[:, 1] / split.sizes
    assert (np.abs(shares - 37569 / 67349) < 5 * np.sqrt(0.25 / split.sizes)).all()


def test_shards_leave_a_client_few_labels() -> None:
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(10), 600))
    split = partition(config("shards", shards_per_client=2), labels, 10, 100)
    assert (split.sizes == 60).all()
    assert ((strata_table(split, labels, 10) > 0).sum(axis=1) <= 2).all()


def test_natural_follows_the_column_and_keeps_the_largest() -> None:
    groups = np.array([7, 3, 3, 9, 9, 9, 7, 3])
    labels = np.zeros(8, dtype=int)
    split = partition(config("natural"), labels, 1, 3, groups)
    assert [split.of(k).tolist() for k in range(3)] == [[1, 2, 7], [0, 6], [3, 4, 5]]
    fewer = partition(config("natural"), labels, 1, 2, groups)
    assert [fewer.of(k).tolist() for k in range(2)] == [[1, 2, 7], [3, 4, 5]]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.floats(0.05, 2), st.integers(1, 12))
def test_minimum_size_holds_or_the_refusal_names_one_that_works(seed, concentration, least) -> None:
    labels = random_labels(seed, 150, 3)
    scheme = config(
        "dirichlet", seed=seed, dirichlet_alpha=concentration, min_client_size=least, max_tries=8
    )
    try:
        assert partition(scheme, labels, 3, 10).sizes.min() >= least
    except ConfigError as error:
        if "set partition.min_client_size=" in str(error):
            works = int(str(error).split("set partition.min_client_size=")[1].split(",")[0])
            assert 0 < works < least
            nearest = dataclasses.replace(scheme, min_client_size=works)
            assert partition(nearest, labels, 3, 10).sizes.min() >= works


@pytest.mark.parametrize(
    "scheme, clients, classes, words",
    [
        (config("iid"), 61, 3, "federation.num_clients=61"),
        (config("iid"), 0, 3, "federation.num_clients=0"),
        (config("iid", min_client_size=7), 10, 3, "at most 6"),
        (config("dirichlet", dirichlet_alpha=0.0), 3, 3, "partition.dirichlet_alpha=0.0"),
        (config("dirichlet", dirichlet_alpha=None), 3, 3, "partition.dirichlet_alpha is null"),
        (config("quantity", dirichlet_alpha=float("nan")), 3, 3, "partition.dirichlet_alpha=nan"),
        (config("dirichlet", dirichlet_alpha=0.01, min_client_size=6), 10, 3, "a larger dirich"),
        (config("label_mix", label_mix="severe"), 4, 3, "partition=dirichlet"),
        (config("label_mix", label_mix="severe"), 3, 5, "partition=dirichlet"),
        (config("label_mix", label_mix="sever"), 3, 3, "did you mean 'severe'"),
        (config("shards", shards_per_client=0), 3, 3, "partition.shards_per_client=0"),
        (config("shards", shards_per_client=21), 3, 3, "at most 20"),
        (config("natural"), 3, 3, "task.client_column"),
        (config("natral"), 3, 3, "did you mean 'natural'"),
    ],
)
def test_what_cannot_be_split_is_refused_in_one_line(scheme, clients, classes, words) -> None:
    labels = np.arange(60) % classes
    with pytest.raises(ConfigError) as caught:
        partition(scheme, labels, classes, clients)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_natural_with_more_clients_than_groups_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_clients=2 or fewer"):
        partition(config("natural"), np.zeros(9, dtype=int), 1, 3, np.arange(9) % 2)


def test_a_hundred_thousand_clients_take_about_a_second() -> None:
    """The same code does a million clients over ten million rows in five seconds and 0.6 GB."""
    labels = random_labels(0, 1_000_000, 10)
    start = time.monotonic()
    split = partition(config("dirichlet"), labels, 10, 100_000)
    assert time.monotonic() - start < 6
    assert_uses_rows_once(split, len(labels))


def test_hopeless_minimum_is_refused_without_all_the_tries() -> None:
    labels = random_labels(0, 200_000, 10)
    start = time.monotonic()
    with pytest.raises(ConfigError, match="in 5 draws"):
        partition(config("dirichlet", min_client_size=1, max_tries=10_000), labels, 10, 50_000)
    assert time.monotonic() - start < 6
