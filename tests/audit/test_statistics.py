"""The statistics against simulations that need no model: right level, and power where it counts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ffalora_cli.audit.canary.step_level import step_level
from ffalora_cli.audit.mechanism import noise, sampler
from ffalora_cli.audit.mechanism.draws import Draws
from ffalora_cli.audit.mechanism.sampler import Inclusions
from ffalora_cli.audit.outcome import LEVEL, Bound, Check, Verdict, furthest, judge
from tests.audit.subjects import subject


def ideal(seed, rounds=6, steps=10, clients=2, tensors=3, size=64):
    """Draws straight from numpy."""
    values = np.random.default_rng(seed).standard_normal((rounds, steps, clients, tensors, size))
    squares = (values**2).sum(-1)
    names = tuple(f"t{i}" for i in range(tensors))
    charged = np.full(clients, rounds * steps)
    sizes = np.full(tensors, size)
    return Draws(names, sizes, values.astype(np.float32), squares, charged, rounds * steps)


def poisson(seed, rows=300, steps=2000, rate=0.05):
    drawn = np.random.default_rng(seed).random((steps, rows)) < rate
    step, row = np.nonzero(drawn)
    return Inclusions(rows, rate, step, row, steps)


def checks_of(seed):
    draws, batches = ideal(seed), [poisson(2 * seed), poisson(2 * seed + 1, rows=200)]
    found = [noise.scale_by(draws, what) for what in ("tensor", "client")]
    found += [noise.centre(draws), noise.shape(draws), noise.tails(draws), noise.norms(draws)]
    found += [noise.independence(draws, axis) for axis in ("tensors", "clients", "steps", "rounds")]
    found += [sampler.rate(batches, np.array([0.05, 0.05]))]
    found += [
        check(batches)
        for check in (
            sampler.batch_sizes,
            sampler.row_counts,
            sampler.lags,
            sampler.neighbours,
            sampler.across_clients,
        )
    ]
    return found


def test_p_values_of_ideal_draws_are_not_too_small():
    """Each check's p-values over 60 ideal audits: about one in ten below 0.1, at most."""
    values: dict[str, list[float]] = {}
    for seed in range(60):
        for check in checks_of(seed):
            values.setdefault(check.name, []).append(check.p_value)
    assert len(values) == 16
    for name, found in values.items():
        below = sum(p <= 0.1 for p in found)
        assert stats.binom.sf(below - 1, len(found), 0.1) > 1e-4, (name, below)


def test_holm_rejects_what_it_should():
    """Against the definition: reject while the i-th smallest of m is at most LEVEL / (m - i)."""
    p_values = [0.9, LEVEL / 4.01, LEVEL / 3.01, LEVEL / 1.9, None]
    checks = [Check(str(i), 0.0, 0.0, p, True, "") for i, p in enumerate(p_values)]
    assert [check.passed for check in judge(checks)] == [True, False, False, True, True]
    at_the_edge = [Check("", 0.0, 0.0, p, True, "") for p in (LEVEL / 1.99, LEVEL * 0.99)]
    assert [check.passed for check in judge(at_the_edge)] == [True, True]
    exact = Check("exact", 1.0, 0.0, None, False, "")
    assert not judge([exact])[0].passed


def test_the_limit_of_a_normal_check_is_where_it_is_rejected():
    assert stats.norm.sf(furthest(7)) * 2 * 7 == pytest.approx(LEVEL)


def test_a_heuristic_bound_never_fails_an_audit():
    bounds = [Bound("fit", 9.0, 0.95, False, "every step", "")]
    assert Verdict(6.0, 1e-5, (), tuple(bounds)).passed
    bounds.append(Bound("one-run", 6.01, 0.95, True, "every step", ""))
    assert Verdict(6.0, 1e-5, (), tuple(bounds)).failures == ["one-run (every step)"]


def test_lag_variance_against_simulation():
    """The z of common rows has unit variance although neighbouring pairs share inclusions."""
    z = []
    for seed in range(200):
        d = poisson(1000 + seed, rows=40, steps=60, rate=0.4)
        here = d.step * d.rows + d.row
        common = len(np.intersect1d(here, here - d.rows))
        z.append(sampler._overlap(common, d.rows, d.steps - 1, d.steps - 2, d.rate))
    assert abs(np.mean(z)) < 4 / np.sqrt(200)
    assert 0.75 < np.std(z) < 1.3


def test_step_level_bound_is_below_the_truth_and_close():
    """Ideal draws of a known mechanism; ten times more draws bring the bound nearer."""
    audited = subject()
    plan = audited.plan
    client = int(plan.epsilon_planned.argmax())
    shares = []
    for steps in (1_000, 10_000):
        drawn = [
            poisson(i, int(n), steps, float(q))
            for i, (n, q) in enumerate(zip(plan.examples, plan.sample_rate, strict=True))
        ]
        empty = ideal(steps, rounds=steps // 20, steps=10, clients=3)
        bound = step_level(plan, empty, drawn, 1.0)
        shares.append(bound.epsilon_lower / plan.epsilon_planned[client])
    assert 0.8 < shares[0] < shares[1] < 1.0


def test_step_level_bound_exceeds_the_claim_when_noise_is_missing():
    plan = subject().plan
    drawn = [
        poisson(i, int(n), 3000, float(q))
        for i, (n, q) in enumerate(zip(plan.examples, plan.sample_rate, strict=True))
    ]
    draws = ideal(0, rounds=100, clients=3)
    weak = Draws(draws.names, draws.sizes, draws.first, draws.squares * 0.95**2, draws.charged, 1)
    assert step_level(plan, weak, drawn, 1.0).epsilon_lower > plan.epsilon_planned.max()
