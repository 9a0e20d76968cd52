"""Lower bounds: against closed forms, exact error probabilities, and repeated ideal mechanisms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ffalora_cli.audit.canary import bounds
from ffalora_cli.audit.canary.guessing import Claim, Sight, measure, plan_guesses
from ffalora_cli.audit.canary.tradeoff import (
    Curve,
    GaussianFamily,
    SubsampledFamily,
    gaussian_delta,
    gaussian_epsilon,
)

DELTA = 1e-5
SST2 = Claim(0.948725, 600 / 67_349, 10_000, DELTA)  # epsilon 6


def pure(epsilon: float) -> Curve:
    """The curve of an (epsilon, 0)-DP mechanism."""
    return Curve.from_profile(np.array([epsilon]), np.array([0.0]))


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0])
def test_one_run_on_randomized_response_is_the_binomial_test(epsilon) -> None:
    """Without delta the theorem is a one-sided binomial test: solve that one by a fine grid."""
    guesses, correct = 400, round(400 / (1 + math.exp(-epsilon)))
    grid = np.arange(0, 4, 1e-3)
    p_values = stats.binom.sf(correct - 1, guesses, 1 / (1 + np.exp(-grid)))
    expected = grid[p_values < 0.05].max()
    assert bounds.one_run(400, guesses, correct, 0.0) == pytest.approx(expected, abs=3e-3)
    assert expected < epsilon


def test_one_run_delta_term_against_a_loop() -> None:
    canaries, guesses, correct, epsilon = 300, 80, 75, bounds.one_run(300, 80, 75, 1e-3)
    right = 1 / (1 + math.exp(-epsilon))
    worst, mass = 0.0, 0.0
    for i in range(1, correct + 1):
        mass += float(stats.binom.pmf(correct - i, guesses, right))
        worst = max(worst, mass / i)
    p_value = float(stats.binom.sf(correct - 1, guesses, right)) + 2 * canaries * 1e-3 * worst
    assert p_value == pytest.approx(0.05, rel=0.02)
    assert epsilon < bounds.one_run(300, 80, 75, 0.0)


@pytest.mark.parametrize("share", [0.03, 0.06])
def test_a_mechanism_that_sometimes_tells_all_is_contradicted_as_often_as_allowed(share) -> None:
    """It reveals every coin with probability delta, so all guesses are right with P >= delta."""
    curve = Curve.from_profile(np.array([0.0]), np.array([share]))
    assert bounds.contradicts(curve, 100, 100, 100, 0.95) == (share < 0.05)


def test_the_tradeoff_bound_on_coins_that_are_answered_independently() -> None:
    """Randomized response: the least number of right guesses it rejects has P < 5 %, exactly."""
    for epsilon, guesses in ((0.5, 50), (1.0, 200), (2.0, 120)):
        rejected = [
            v for v in range(guesses + 1)
            if bounds.contradicts(pure(epsilon), guesses, guesses, v, 0.95)
        ]  # fmt: skip
        right = 1 / (1 + math.exp(-epsilon))
        assert rejected == list(range(rejected[0], guesses + 1))
        assert stats.binom.sf(rejected[0] - 1, guesses, right) < 0.05
        # and it is not absurdly careful: three sd beyond the mean are always enough
        assert rejected[0] < guesses * right + 3.5 * math.sqrt(guesses * right * (1 - right)) + 2


def test_curves_are_bounds_on_neighbouring_events() -> None:
    """Gaussian: the least probability of an event on the neighbour has a closed form."""
    mu = 1.3
    family = GaussianFamily(mu)
    curve = family.curve(mu)
    for y in (0.01, 0.2, 0.5, 0.9, 0.999):
        exact = stats.norm.cdf(stats.norm.ppf(y) - mu)
        lines = np.array(curve.slopes) * y + np.array(curve.intercepts)
        assert lines.max() <= exact + 1e-12
        assert lines.max() == pytest.approx(exact, rel=1e-3, abs=1e-6)


def test_more_right_guesses_never_lower_a_bound() -> None:
    family = GaussianFamily(1.3)
    for bound in (
        lambda v: bounds.one_run(1000, 200, v, DELTA),
        lambda v: bounds.one_run_tradeoff(1000, 200, v, DELTA, family),
    ):
        found = [bound(v) for v in range(90, 201, 10)]
        assert found == sorted(found)
        assert found[0] == 0.0 < found[-1]
    higher = [bounds.one_run(1000, 200, 180, DELTA, c) for c in (0.8, 0.95, 0.999)]
    assert higher == sorted(higher, reverse=True)


def test_clopper_pearson_against_the_binomial_tails() -> None:
    found = bounds.clopper_pearson((500, 300), (500, 5), 1e-5)
    # limits at which the observed counts have a tail of 2.5 %
    grid = np.arange(1e-5, 1, 1e-5)
    false = grid[stats.binom.cdf(5, 500, grid) > 0.025].max()
    missed = grid[stats.binom.cdf(300, 500, grid) > 0.025].max()
    assert found == pytest.approx(math.log((1 - missed - 1e-5) / false), abs=2e-3)
    assert bounds.clopper_pearson((500, 500), (500, 500), 1e-5) == 0.0
    assert math.isfinite(bounds.clopper_pearson((500, 0), (500, 0), 1e-5))


def test_gaussian_fit_finds_the_distance_and_no_more() -> None:
    generator = np.random.default_rng(0)
    outside = generator.standard_normal(200_000)
    inside = generator.standard_normal(200_000) + 1.0
    found = bounds.gaussian_fit(inside, outside, DELTA)
    assert found == pytest.approx(gaussian_epsilon(1.0, DELTA), rel=0.02)
    assert bounds.gaussian_fit(outside, inside, DELTA) == 0.0


def test_bad_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="not a count"):
        bounds.one_run(10, 11, 5, DELTA)


def gaussian_repeats(mu: float, canaries: int, guesses: int, repeats: int) -> np.ndarray:
    """Right guesses in repeats of an ideal Gaussian mechanism, coordinate by coordinate."""
    generator = np.random.default_rng(1)
    found = np.empty(repeats, np.int64)
    for i in range(repeats):
        included = generator.random(canaries) < 0.5
        order = np.argsort(generator.standard_normal(canaries) + mu * included)
        half = guesses // 2
        found[i] = included[order[-half:]].sum() + (~included[order[:half]]).sum()
    return found


@pytest.mark.parametrize("mu", [0.6, 1.3, 3.0])
def test_bounds_are_below_the_truth_as_often_as_they_say(mu) -> None:
    repeats = 1000
    right = gaussian_repeats(mu, 400, 60, repeats)
    truth = gaussian_epsilon(mu, DELTA)
    above = np.array([bounds.one_run(400, 60, v, DELTA) > truth for v in range(61)])[right]
    curve = GaussianFamily(mu).curve(mu)
    too_large = np.array([bounds.contradicts(curve, 400, 60, v, 0.95) for v in range(61)])[right]
    limit = 0.05 + 3 * math.sqrt(0.05 * 0.95 / repeats)
    assert too_large.mean() <= limit
    assert above.mean() <= limit


def test_the_subsampled_family_is_the_accountants_and_close_to_its_gaussian_limit() -> None:
    family = SST2.family
    assert family.epsilon(family.claimed, DELTA) == pytest.approx(6.0, rel=1e-4)
    # delta of the whole composition is reproduced by the curve at y = 1: x >= 1 - delta
    assert SubsampledFamily(1.0, 1.0, 1).epsilon(1.0, DELTA) == pytest.approx(4.377178, rel=1e-3)
    assert gaussian_epsilon(1.0, DELTA) == pytest.approx(4.377178, rel=1e-6)
    assert float(gaussian_delta(4.377178, 1.0)) == pytest.approx(DELTA, rel=1e-4)


def ideal(sight: Sight, canaries: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Coins and scores of the claimed mechanism, drawn directly."""
    generator = np.random.default_rng(seed)
    included = generator.random(canaries) < 0.5
    scores = np.zeros(canaries)
    for _ in range(sight.observations):
        seen = generator.standard_normal(canaries) * sight.noise_sd
        seen[included] += generator.binomial(sight.draws, sight.rate, int(included.sum()))
        scores += sight.ratio(seen)
    return included, scores


@pytest.mark.parametrize("draws", [1, 10])
def test_likelihood_ratio_and_its_moments(draws) -> None:
    sight = Sight(0.05, draws, 1.1 * math.sqrt(draws), 50)
    x = np.array([-2.0, 0.0, 0.5, 3.0])
    loop = [
        math.log(
            sum(
                stats.binom.pmf(k, draws, 0.05) * stats.norm.pdf(v, k, sight.noise_sd)
                for k in range(draws + 1)
            )
            / stats.norm.pdf(v, 0, sight.noise_sd)
        )
        for v in x
    ]
    assert sight.ratio(x) == pytest.approx(loop, rel=1e-6)
    assert np.isfinite(sight.ratio(np.array([np.nan, np.inf, -np.inf, 1e9]))).all()
    included, scores = ideal(sight, 20_000, 0)
    for found, (mean, sd) in zip(
        (scores[included], scores[~included]), sight.moments(), strict=True
    ):
        assert found.mean() == pytest.approx(mean, abs=5 * sd / 100)
        assert found.std() == pytest.approx(sd, rel=0.05)


@pytest.mark.slow
def test_reference_table_with_ideal_canaries() -> None:
    """SST-2 at epsilon 6, 5,000 ideal per-step canaries, 12 repeats (reference table: at least)."""
    sight = Sight(SST2.sample_rate, 1, SST2.noise_multiplier, SST2.steps)
    plan = plan_guesses(sight, 5000, SST2)
    found = []
    for seed in range(12):
        included, scores = ideal(sight, 5000, seed)
        found.append([b.epsilon_lower for b in measure(scores, included, plan, SST2, "every step")])
    one_run, tradeoff, exact, fit = np.mean(found, axis=0)
    assert one_run > 2.27
    assert tradeoff > 3.18
    assert exact > 2.0
    assert 0.75 * 6 < fit < 6
    assert np.max(found) < 6
