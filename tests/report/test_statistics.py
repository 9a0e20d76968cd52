"""Means, intervals, paired differences and ties against scipy and closed forms."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ffalora_cli.report.runs.statistics import paired, separable, standings, summarize

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


@given(st.integers(2, 5), st.integers(2, 12), st.booleans(), st.booleans(), st.integers(0, 1000))
def test_tied_is_what_scipys_tests_do_not_separate(rows, count, pairs, higher, seed) -> None:
    """The paired test where rows share keys, Welch's where they do not."""
    values = np.random.default_rng(seed).normal(np.arange(rows)[:, None] / 2, size=(rows, count))
    keyed = [
        {(0 if pairs else row, i): v for i, v in enumerate(values[row])} for row in range(rows)
    ]
    found = standings([summarize(own) for own in values], keyed, higher)
    first = int((values.mean(1) * (1 if higher else -1)).argmax())
    for row in range(rows):
        test = stats.ttest_rel if pairs else partial(stats.ttest_ind, equal_var=False)
        expected = "tied" if test(values[first], values[row]).pvalue >= 0.05 else ""
        assert found[row] == ("best" if row == first else expected)


def test_a_single_run_ties_with_equals_only_and_rows_without_runs_take_no_part() -> None:
    rows = [[0.5], [0.5], [0.4999], []]
    samples = [summarize(own) for own in rows]
    keyed = [dict(enumerate(own)) for own in rows]
    assert standings(samples, keyed, higher=True) == ["best", "tied", "", ""]
    assert standings(samples[2:], keyed[2:], higher=True) == ["", ""]  # nothing to be better than


def test_pairs_decide_where_single_rows_overlap() -> None:
    """A gain of every seed shows although seeds differ by far more than methods."""
    one, other = {0: 0.1, 1: 0.5, 2: 0.9}, {0: 0.111, 1: 0.512, 2: 0.913}
    samples = [summarize(list(own.values())) for own in (one, other)]
    assert standings(samples, [one, other], higher=True) == ["", "best"]
    assert not separable(*samples)
