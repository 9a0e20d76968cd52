"""Other groups than one unit: k units together, one row of a unit, a text on several clients.

Oracles: dp-accounting's mixture of Gaussians, and numeric integration over the plane.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as library
from dp_accounting.pld.pld_pmf import create_pmf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.privacy.accounting.composition import composed
from ffalora_cli.privacy.accounting.group_loss import one_row, several_units
from ffalora_cli.privacy.accounting.groups import epsilon_of_group
from ffalora_cli.privacy.accounting.loss_distribution import divergences, fitting
from ffalora_cli.privacy.claim.spent import claimed, spent
from ffalora_cli.privacy.planning.make import make_plan
from tests.privacy.cases import federation, privacy

SST2 = (0.9487, 200 / 22_450)
few = settings(max_examples=12, deadline=None, derandomize=True)


def test_k_rows_are_composed_exactly_not_multiplied():
    """13.92 and 23.47 by dp-accounting's binomial mixture (grid 1e-3: 13.9179, 23.4669)."""
    one = Accountant("pld", 1e-5).epsilon([(*SST2, 10_000)])
    for units, value in ((2, 13.9179), (3, 23.4669)):
        found = epsilon_of_group("poisson", *SST2, 10_000, 1e-5, units)
        assert found == pytest.approx(value, abs=2e-4) and found > 1.1 * units * one


@pytest.mark.parametrize("units", [1, 2, 4])
@pytest.mark.parametrize(("noise", "rate"), [(0.7, 0.1), (2.0, 0.4), (1.5, 1.0)])
def test_a_step_of_several_units_equals_the_librarys(noise, rate, units):
    drawn = [j for j in range(units + 1) if binom.pmf(j, units, rate) > 0.0]
    weights = [float(binom.pmf(j, units, rate)) for j in drawn]
    theirs = library.from_mixture_gaussian_mechanism(
        noise, drawn, weights, value_discretization_interval=0.02
    )
    curves = several_units(noise, rate, units, 0.02)
    for target in (0.0, 0.3, 1.0, 2.5):  # points of the grid
        at = [round(target / 0.02) - low for low, _ in curves]
        values = [d[i] if i < len(d) else 0.0 for i, (_, d) in zip(at, curves, strict=True)]
        ours = max(values)
        assert ours == pytest.approx(theirs.get_delta_for_epsilon(target), rel=1e-6, abs=1e-12)
    if units == 1 and rate < 1.0:  # the closed form of one unit
        for ours, known in zip(curves, divergences(noise, rate, 0.02), strict=True):
            mine, closed = (dict(enumerate(deltas, low)) for low, deltas in (ours, known))
            common = mine.keys() & closed.keys()
            assert len(common) > 50
            assert max(abs(mine[i] - closed[i]) for i in common) < 1e-12


def test_groups_without_amplification_are_one_larger_gaussian():
    wanted = Accountant("pld", 1e-5).epsilon([(1.0, 1.0, 7)])
    assert epsilon_of_group("poisson", 2.0, 1.0, 7, 1e-5, 2) == wanted
    assert epsilon_of_group("shuffled", 3.0, 0.1, 70, 1e-5, 3) == wanted
    assert epsilon_of_group("fixed", 3.0, 0.1, 70, 1e-5, 3) is None
    assert epsilon_of_group("shuffled", 1.0, 0.1, 70, 1e-5, None) == wanted


def _plane(noise, rate, before, after, points=800):
    """Loss and probability on a grid of the plane: unit's sum ``after`` against ``before``."""
    x = np.linspace(-9.0 * noise, 9.0 * noise + 1.0, points)
    density = norm.pdf(x, scale=noise) * (x[1] - x[0])
    base = density[:, None] * density
    ratio = []
    for mean in (after, before):
        exponent = (np.add.outer(x * mean[0], x * mean[1]) - (mean @ mean) / 2) / noise**2
        ratio.append(1 - rate + rate * np.exp(exponent))
    return np.log(ratio[0] / ratio[1]).ravel(), (base * ratio[0]).ravel()


def _in_ball(radius, angle):
    return radius * np.array([math.cos(angle), math.sin(angle)])


@few
@given(st.tuples(*[st.floats(0, 1)] * 2), st.tuples(*[st.floats(0, 6.3)] * 2), st.floats(0.02, 0.9))
def test_one_row_of_a_unit_moves_one_step_no_more_than_the_unit(radii, angles, rate):
    """Clipped sum g against clipped sum of g + h, both norms at most C: both directions."""
    noise = 0.9
    g, h = (_in_ball(r, a) for r, a in zip(radii, angles, strict=True))
    both = (g + h) / max(1.0, float(np.linalg.norm(g + h)))  # the projection
    low, removed = divergences(noise, rate, 0.1)[0]
    mirror_low, mirrored = one_row(noise, rate, 0.1)[0]
    for before, after in ((g, both), (both, g)):
        losses, mass = _plane(noise, rate, before, after, 400)
        for loss in (0.0, 0.2, 0.7, 1.5, -0.2, -0.7):
            divergence = float(mass @ np.maximum(0.0, 1.0 - np.exp(loss - losses)))
            assert divergence <= mirrored[round(loss / 0.1) - mirror_low] + 1e-6
            if loss >= 0.0:
                assert divergence <= removed[round(loss / 0.1) - low] + 1e-6


def test_composed_steps_need_the_mirrored_curve_for_one_row():
    """Two sums at 60 degrees: over 10,000 steps more than the unit's 6.00, within the bound."""
    noise, rate = SST2
    losses, mass = _plane(noise, rate, _in_ball(1.0, 0.0), _in_ball(1.0, math.pi / 3))
    index = np.rint(losses / 1e-3).astype(int)
    counts = np.bincount(index - index.min(), weights=mass)
    masses = {int(i + index.min()): float(p) for i, p in enumerate(counts) if p > 1e-18}
    pair = library.PrivacyLossDistribution(create_pmf(masses, 1e-3, 0.0, True))
    found = pair.self_compose(10_000).get_epsilon_for_delta(1e-5)
    unit = Accountant("pld", 1e-5).epsilon([(noise, rate, 10_000)])
    bound = epsilon_of_group("poisson", noise, rate, 10_000, 1e-5, None)
    assert unit + 0.4 < found < bound < unit + 2.0


@few
@given(st.lists(st.tuples(st.floats(0.8, 3.0), st.floats(1e-3, 0.05)), min_size=2, max_size=4),
       st.integers(1, 400))  # fmt: skip
def test_the_worst_of_several_histories_is_found_without_composing_all(clients, steps):
    histories = [[(n, q, steps), (1.5, 0.01, i * steps)] for i, (n, q) in enumerate(clients)]
    for accountant in ("pld", "rdp"):
        found = Accountant(accountant, 1e-5, interval=1e-3).worst(histories)
        wanted = max(Accountant(accountant, 1e-5, interval=1e-3).epsilon(h) for h in histories)
        assert found == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    ("accountant", "sampling"),
    [
        ("rdp", "poisson"),
        ("pld", "poisson"),
        ("pld", "shuffled"),
        pytest.param("rdp", "fixed", marks=pytest.mark.slow),
    ],
)
def test_a_text_on_several_clients_is_claimed_from_its_composition(accountant, sampling):
    changes = {"accountant": accountant, "sampling": sampling, "noise_multiplier": 3.0}
    given = privacy(**changes, epsilon_target=None)
    some = federation(rounds=8, local_batch_size=20)
    plan = make_plan(given, [900, 400, 700], some, ["a"], ((0, 1), (1, 2)))
    clients = [(3.0, float(q), 80) for q in plan.accounted_rate]
    pairs = [[clients[0], clients[1]], [clients[1], clients[2]]]
    wanted = max(Accountant(accountant, 1e-5, sampling=sampling).epsilon(pair) for pair in pairs)
    assert plan.epsilon_claimed == pytest.approx(wanted, rel=1e-12)
    assert max(plan.epsilon_planned) < wanted
    on_the_way = []
    for round in range(9):
        steps = np.full(3, 10 * round)
        on_the_way.append(claimed(plan, steps, spent(plan, steps)))
    assert on_the_way[0] == 0.0 and on_the_way[-1] == plan.epsilon_claimed
    assert (np.diff(on_the_way) >= 0).all()
    half = [[(3.0, q, 40) for _, q, _ in pair] for pair in pairs]
    exact = max(Accountant(accountant, 1e-5, sampling=sampling).epsilon(pair) for pair in half)
    assert exact <= on_the_way[4] <= 1.01 * exact


def test_small_losses_get_a_finer_grid():
    """A grid of 1e-4 gives 0.125 here; 0.0588 on one ten times finer than ours."""
    history = [(50.0, 1e-3, 1_000_000)]
    found = Accountant("pld", 1e-5).epsilon(history)
    assert 0.05877 < found < 0.0589
    assert fitting(history, 1e-4) < 1e-5
    limit = Accountant("pld", 1e-5).epsilon(
        [(50.0 / (1e-3 * 1_000), 1.0, 1)]
    )  # one Gaussian, rate sqrt(T)
    assert found == pytest.approx(limit, rel=0.01)
    for noise, rate in ((0.9487, 200 / 22_450), (0.52, 0.0015), (4.2, 0.01)):  # as it was
        assert fitting([(noise, rate, 10_000)], 1e-4) == 1e-4
    ones = composed(divergences(5.0, 1e-4, 1e-4), np.array([100_000]), 1e-5, 1e-4)[0]
    assert Accountant("pld", 1e-5).epsilon([(5.0, 1e-4, 100_000)]) < 0.5 * ones
