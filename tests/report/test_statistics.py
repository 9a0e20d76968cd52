"""Means, intervals, paired differences and ties against scipy and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ffalora_cli.report.runs.statistics import best, paired, summarize

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20)


@given(VALUES)
def test_interval_is_scipys(values) -> None:
    sample = summarize(values)
    array = np.asarray(values, dtype=np.float64)
    assert sample.count == len(values)
    assert sample.mean == pytest.approx(array.mean())
    assert sample.sd == pytest.approx(array.std(ddof=1), abs=1e-12)
    assert sample.interval is not None
    error = stats.sem(array)
    if error > 1e-9:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=array.mean(), scale=error)
        assert sample.interval == pytest.approx((low, high), rel=1e-9, abs=1e-9)


def test_a_textbook_interval() -> None:
    sample = summarize([1.0, 2.0, 3.0])  # t(0.975, 2) = 4.302653, sd = 1
    assert sample.half_width == pytest.approx(4.302652729911275 / math.sqrt(3))


def test_one_run_has_no_interval_and_none_no_mean() -> None:
    one = summarize([0.5])
    assert (one.count, one.mean, one.sd, one.half_width, one.interval) == (1, 0.5, None, None, None)
    assert math.isnan(summarize([]).mean)
    with pytest.raises(ValueError, match="finite"):
        summarize([1.0, math.nan])


@given(st.integers(2, 12), st.integers(0, 1000))
def test_paired_interval_is_that_of_scipys_paired_test(count, seed) -> None:
    generator = np.random.default_rng(seed)
    ours, theirs = generator.normal(size=(2, count))
    found = paired(dict(enumerate(ours)), dict(enumerate(theirs)))
    reference = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert found.differences.interval == pytest.approx((reference.low, reference.high))
    assert found.clear == (stats.ttest_rel(ours, theirs).pvalue < 0.05)
    assert found.unpaired == 0


def test_only_common_keys_make_pairs() -> None:
    found = paired({"a": 3.0, "b": 5.0, "c": 9.0}, {"b": 1.0, "c": 2.0, "d": 8.0})
    assert found.pairs == ("b", "c")
    assert found.differences.mean == 5.5
    assert found.unpaired == 2
    assert paired({"a": 1.0}, {"b": 1.0}).pairs == ()


@given(st.lists(st.lists(st.floats(0, 1), min_size=0, max_size=4), min_size=1, max_size=6))
def test_best_is_the_best_mean_and_ties_lie_in_its_interval(rows) -> None:
    samples = [summarize(values) for values in rows]
    for higher in (True, False):
        first, near = best(samples, higher)
        means = [sample.mean for sample in samples if sample.count]
        if first is None:
            assert not means
            continue
        assert samples[first].mean == (max(means) if higher else min(means))
        width = samples[first].half_width or 0.0
        expected = {
            row
            for row, sample in enumerate(samples)
            if row != first and sample.count and abs(sample.mean - samples[first].mean) <= width
        }
        assert near == expected


def test_a_single_run_ties_with_equals_only() -> None:
    samples = [summarize([0.5]), summarize([0.5]), summarize([0.4999])]
    assert best(samples, higher=True) == (0, frozenset({1}))
