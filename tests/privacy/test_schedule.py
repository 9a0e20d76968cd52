"""Target and noise together give the rounds; curves and quick compositions are upper bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from dp_accounting import NeighboringRelation
from dp_accounting.pld import privacy_loss_distribution
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.privacy.accounting.accountant import Accountant, affordable_rounds
from ffalora_cli.privacy.accounting.composition import trajectory
from ffalora_cli.privacy.accounting.loss_distribution import replacing_step, step
from ffalora_cli.privacy.claim.spent import spent
from ffalora_cli.privacy.planning.budget import solve
from ffalora_cli.privacy.planning.make import make_plan
from ffalora_cli.privacy.planning.shared_rows import find_shared_rows
from tests.privacy.cases import federation, privacy

few = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_target_and_noise_give_the_last_affordable_round(accountant):
    sizes = [400, 1_000, 4_000]
    both = privacy(noise_multiplier=2.0, epsilon_target=2.0, accountant=accountant)
    plan = make_plan(both, sizes, federation(local_batch_size=20, rounds=300), ["a"])
    assert len(set(plan.planned_rounds)) > 1
    for i, n in enumerate(sizes):
        rounds = int(plan.planned_rounds[i])
        at = [
            Accountant(accountant, 1e-5).epsilon([(2.0, 20 / n, 10 * r)])
            for r in (rounds, rounds + 1)
        ]
        assert at[0] <= 2.0 and plan.epsilon_planned[i] == at[0]
        assert at[1] > 2.0 or rounds == 300
    assert any("the budget affords" in line for line in plan.warnings)
    assert spent(plan, plan.planned_steps).max() <= 2.0


def test_a_client_that_affords_nothing_sits_out_with_a_warning():
    both = privacy(noise_multiplier=0.6, epsilon_target=3.0)
    plan = make_plan(both, [50, 40_000], federation(num_clients=2, rounds=30), ["a"])
    assert plan.planned_rounds[0] == 0 and plan.planned_rounds[1] > 0
    assert plan.epsilon_planned[0] == 0.0
    assert any("1 of 2 clients cannot afford a round" in line for line in plan.warnings)


def test_client_level_rounds():
    both = privacy(unit="client", noise_multiplier=5.0, epsilon_target=6.0)
    plan = make_plan(both, [9] * 3, federation(), ["a"])
    rounds = int(plan.planned_rounds[0])
    assert Accountant("rdp", 1e-5).epsilon([(5.0, 1.0, rounds)]) <= 6.0
    assert Accountant("rdp", 1e-5).epsilon([(5.0, 1.0, rounds + 1)]) > 6.0


@few
@given(st.integers(0, 500), st.integers(1, 500), st.integers(0, 30))
def test_affordable_rounds_finds_the_step(last, most, loose):
    def exact(count):
        return float(count)

    def coarse(count):
        return float(count + loose)

    assert affordable_rounds(exact, coarse, last + 0.5, most) == min(last, most)


@few
@given(st.floats(0.5, 5.0), st.sampled_from([1e-3, 0.01, 0.2, 1.0]), st.sampled_from([1e-3, 1e-4]))
def test_our_step_is_the_librarys(noise, rate, interval):
    pairs = [(step, NeighboringRelation.ADD_OR_REMOVE_ONE)]
    pairs += [(replacing_step, NeighboringRelation.REPLACE_ONE)] if rate < 1.0 else []
    for made, relation in pairs:
        library = privacy_loss_distribution.from_gaussian_mechanism(
            noise,
            value_discretization_interval=interval,
            sampling_prob=rate,
            neighboring_relation=relation,
        )
        ours = made(noise, rate, interval)
        for target in (0.01, 0.5, 2.0):
            found, theirs = (p.get_delta_for_epsilon(target) for p in (ours, library))
            assert found == pytest.approx(theirs, rel=1e-7, abs=1e-13)


@few
@given(st.floats(0.5, 5.0), st.floats(1e-3, 0.3), st.sampled_from([1e-7, 1e-5]))
def test_trajectory_equals_the_librarys_composition(noise, rate, delta):
    counts = np.array([1, 3, 40, 700])
    found = trajectory(noise, rate, counts, delta, 1e-3)
    theirs = [
        Accountant("pld", delta, interval=1e-3).epsilon([(noise, rate, int(n))]) for n in counts
    ]
    assert found == pytest.approx(theirs, rel=2e-5, abs=1e-7)


def test_many_rates_are_interpolated_within_the_target():
    sizes = np.geomspace(300, 3_000, 120).astype(int).tolist()
    some = federation(num_clients=120, local_batch_size=20, rounds=5)
    plan = make_plan(privacy(epsilon_target=3.0), sizes, some, ["a"])
    assert len(np.unique(plan.accounted_rate)) > 50
    assert (plan.epsilon_planned <= 3.0).all() and (plan.epsilon_planned >= 0.999 * 3.0).all()
    for client in range(0, 120, 17):
        real = (plan.noise_multiplier[client], plan.sample_rate[client], 50)
        assert Accountant("rdp", 1e-5).epsilon([real]) <= 3.0


def test_budget_solves_each_of_the_three():
    full = solve("pld", 22_450, 200, 1e-5, 6.0, None, 10_000)
    assert full.noise_multiplier == pytest.approx(0.948717, rel=5e-4)
    again = solve("pld", 22_450, 200, 1e-5, None, full.noise_multiplier, 10_000)
    assert again.epsilon == full.epsilon <= 6.0
    steps = solve("rdp", 22_450, 200, 1e-5, 3.0, 1.2, None).steps
    rate = 200 / 22_450
    assert Accountant("rdp", 1e-5).epsilon([(1.2, rate, steps)]) <= 3.0
    assert Accountant("rdp", 1e-5).epsilon([(1.2, rate, steps + 1)]) > 3.0


def naive_holders(keys, owner):
    holders = {}
    for unit, client in zip(keys.tolist(), owner.tolist(), strict=True):
        holders.setdefault(unit, set()).add(client)
    sets = {tuple(sorted(who)) for who in holders.values() if len(who) > 1}
    return sorted(s for s in sets if not any(set(s) < set(other) for other in sets))


@few
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(5, 60))
def test_shared_rows_against_a_loop(seed, clients, rows):
    random = np.random.default_rng(seed)
    keys = random.integers(0, rows, rows).astype(np.uint64)
    owner = np.sort(random.integers(0, clients, rows))
    order = random.permutation(rows)
    inverse = np.argsort(order)
    offsets = np.searchsorted(owner, np.arange(clients + 1))
    found = find_shared_rows(keys[inverse], order, offsets)
    assert list(found) == naive_holders(keys, owner)


def test_the_claim_of_a_text_on_two_clients_is_their_composition():
    """Not the sum of their epsilons, and at the same delta."""
    shared, sizes = ((0, 2),), [24_526, 20_373, 22_450]
    plan = make_plan(privacy(), sizes, federation(), ["a"], shared)
    both = [(plan.noise_multiplier[i], plan.sample_rate[i], 10_000) for i in (0, 2)]
    assert plan.epsilon_claimed == Accountant("rdp", 1e-5).epsilon(both)
    assert (
        max(plan.epsilon_planned) < plan.epsilon_claimed < 0.8 * sum(plan.epsilon_planned[[0, 2]])
    )
    assert any("composed" in line for line in plan.warnings)
    row = make_plan(privacy(unit="row"), sizes, federation(), ["a"], shared)
    assert row.epsilon_claimed == max(row.epsilon_planned)  # a row lies on one client


def test_a_guard_that_refuses_names_what_is_affordable_and_the_noise_that_would_do():
    """The noise it names is enough, and a thousandth less is not."""
    both = privacy(noise_multiplier=2.0, epsilon_target=2.0, budget_guard="refuse")
    settings = {"local_batch_size": 20, "rounds": 300}
    with pytest.raises(ConfigError, match=r"affords only \d+ of 300 rounds") as caught:
        make_plan(both, [400, 4_000], federation(**settings), ["a"])
    line = str(caught.value)
    least = int(line.split("affords only ")[1].split()[0])
    assert (
        least
        == make_plan(
            replace(both, budget_guard="stop"), [400, 4_000], federation(**settings), ["a"]
        ).planned_rounds.min()
    )
    enough = float(line.split("at least ")[1].split(",")[0])
    plan = make_plan(
        replace(both, noise_multiplier=enough), [400, 4_000], federation(**settings), ["a"]
    )
    assert (plan.planned_rounds == 300).all() and spent(plan, plan.planned_steps).max() <= 2.0
    with pytest.raises(ConfigError, match="affords only"):
        make_plan(
            replace(both, noise_multiplier=enough - 2e-3), [400], federation(**settings), ["a"]
        )
