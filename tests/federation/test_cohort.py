import numpy as np
import pytest

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.federation.cohort.cohort import sample


def test_full_is_everyone_eligible():
    assert sample(1, 1, 4, None, "full").tolist() == [0, 1, 2, 3]
    eligible = np.array([True, False, True, True])
    assert sample(1, 1, 4, None, "full", eligible).tolist() == [0, 2, 3]


@pytest.mark.parametrize("scheme", ["fixed", "poisson"])
def test_draws_are_keyed_sorted_and_differ_between_rounds(scheme):
    draws = [sample(b"key", round, 100, 20, scheme) for round in range(1, 30)]
    again = [sample(b"key", round, 100, 20, scheme) for round in range(29, 0, -1)][::-1]
    for one, other in zip(draws, again, strict=True):
        assert one.dtype == np.int64
        assert np.array_equal(one, other)
        assert np.all(np.diff(one) > 0)
    assert len({tuple(draw) for draw in draws}) == 29
    assert not np.array_equal(draws[0], sample(b"kez", 1, 100, 20, scheme))


def test_fixed_draws_exactly_from_the_eligible():
    eligible = np.arange(50) % 2 == 0
    for round in range(1, 20):
        draw = sample(0, round, 50, 7, "fixed", eligible)
        assert len(draw) == 7
        assert eligible[draw].all()


def test_fixed_includes_everyone_equally_often():
    counts = np.zeros(10)
    for round in range(1, 2001):
        counts[sample(3, round, 10, 3, "fixed")] += 1
    assert np.abs(counts / 2000 - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 2000)


def test_poisson_rate_independence_and_empty_cohorts():
    draws = [sample(5, round, 10, 1, "poisson") for round in range(1, 4001)]
    taken = np.zeros((4000, 10))
    for row, draw in enumerate(draws):
        taken[row, draw] = 1
    assert np.abs(taken.mean(axis=0) - 0.1).max() < 5 * np.sqrt(0.1 * 0.9 / 4000)
    assert abs((taken.sum(axis=1) == 0).mean() - 0.9**10) < 0.04
    correlation = np.corrcoef(taken.T) - np.eye(10)
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)


def test_poisson_chance_does_not_depend_on_who_else_is_eligible():
    eligible = np.arange(30) < 15
    for round in range(1, 20):
        everyone = sample(5, round, 30, 10, "poisson")
        some = sample(5, round, 30, 10, "poisson", eligible)
        assert np.array_equal(some, everyone[everyone < 15])


@pytest.mark.parametrize(
    ("scheme", "size", "limit"),
    [("fixed", None, 3), ("fixed", 4, 3), ("fixed", 0, 3), ("poisson", 5, 4), ("poisson", None, 4)],
)
def test_sizes_that_cannot_be_drawn_are_refused(scheme, size, limit):
    eligible = np.array([True, True, False, True])
    with pytest.raises(ConfigError, match=rf"federation\.cohort_size=.*1 … {limit}") as caught:
        sample(0, 1, 4, size, scheme, eligible)
    assert "\n" not in str(caught.value)


def test_unknown_scheme_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'poisson'"):
        sample(0, 1, 4, 2, "poison")
