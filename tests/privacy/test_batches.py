"""Batches by key: Poisson statistics, epochs without replacement, no hidden state."""

from __future__ import annotations

import numpy as np

from ffalora_cli import keys
from ffalora_cli.engine.microbatch import cut, padded_tokens
from ffalora_cli.privacy.mechanism import batches


def test_poisson_mean_dispersion_and_independence():
    rows = np.arange(400)
    drawn = np.array(
        [np.isin(rows, batches.poisson_batch(b"k", 3, 1, step, rows, 0.1)) for step in range(500)]
    )
    sizes = drawn.sum(1)
    assert abs(sizes.mean() - 40) < 4 * np.sqrt(400 * 0.09 / 500)
    assert 0.8 < sizes.var() / (400 * 0.09) < 1.2  # a fixed-size sampler has zero
    lagged = np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]
    assert abs(lagged) < 4.5 / np.sqrt(drawn[1:].size)


def test_poisson_depends_on_every_coordinate_and_nothing_else():
    rows = np.arange(1000)
    base = batches.poisson_batch(b"k", 1, 1, 1, rows, 0.5)
    assert np.array_equal(base, batches.poisson_batch(b"k", 1, 1, 1, rows, 0.5))
    for other in [(b"j", 1, 1, 1), (b"k", 2, 1, 1), (b"k", 1, 2, 1), (b"k", 1, 1, 2)]:
        assert not np.array_equal(base, batches.poisson_batch(*other, rows, 0.5))
    assert len(batches.poisson_batch(b"k", 1, 1, 1, rows, 1.0)) == 1000


def test_epochs_use_every_row_once():
    rows = np.arange(100, 123)
    drawn = np.concatenate([batches.epoch_batch(0, 5, p, rows, 4) for p in range(23)])
    for epoch in range(4):
        part = drawn[23 * epoch : 23 * (epoch + 1)]
        assert sorted(part.tolist()) == rows.tolist()
    assert not np.array_equal(drawn[:23], drawn[23:46])
    assert len(batches.epoch_batch(0, 5, 0, rows[:3], 4)) == 3  # never more rows than there are


def test_cut_holds_every_pair_once_within_bounds():
    lengths = np.random.default_rng(0).integers(1, 60, 200)
    for packed in (True, False):
        parts = cut(lengths, 128, 7, packed)
        assert sorted(np.concatenate(parts).tolist()) == list(range(200))
        for part in parts:
            assert len(part) <= 7
            used = lengths[part].sum() if packed else padded_tokens(lengths[part], None)
            assert len(part) == 1 or used <= 128
            assert (np.diff(lengths[part]) <= 0).all()
    assert [len(p) for p in cut(np.array([300, 2]), 128, 9, True)] == [1, 1]


def test_derive_separates_types_and_boundaries():
    assert keys.derive(1, "a", 2) != keys.derive(1, "a", "2")
    assert keys.derive(1, "ab", "c") != keys.derive(1, "a", "bc")
    assert keys.derive("1") != keys.derive(1)
    assert len(keys.derive(1, "a")) == 32
