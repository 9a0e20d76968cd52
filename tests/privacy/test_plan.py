from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.privacy.accounting.curves import round_points
from ffalora_cli.privacy.claim.spent import spent
from ffalora_cli.privacy.claim.statement import statement
from ffalora_cli.privacy.planning.exposure import Participation, planned_rounds
from ffalora_cli.privacy.planning.make import make_plan
from tests.privacy.cases import federation, privacy

SST2 = [24_526, 20_373, 22_450]


def test_no_unit_no_plan():
    assert make_plan(privacy(unit="none"), SST2, federation(), ["a"]) is None


def test_each_client_gets_noise_for_its_own_size():
    plan = make_plan(privacy(), SST2, federation(), ["x.lora_b", "head.weight"])
    assert plan.sample_rate == pytest.approx([200 / n for n in SST2], rel=1e-15)
    assert plan.expected_batch.tolist() == [200.0] * 3
    assert plan.planned_steps.tolist() == [10_000] * 3
    assert (plan.epsilon_planned >= 0.999 * 6).all() and (plan.epsilon_planned <= 6).all()
    order = np.argsort(SST2)  # fewer rows, higher rate, more noise
    assert (np.diff(plan.noise_multiplier[order]) < 0).all()
    assert plan.covered == ("x.lora_b", "head.weight")
    assert (plan.relation, plan.accountant.sampling) == ("add/remove one", "poisson")


def test_shared_noise_claims_the_worst_client():
    plan = make_plan(privacy(calibration="shared"), SST2, federation(), ["a"])
    assert len(set(plan.noise_multiplier)) == 1
    assert int(plan.epsilon_planned.argmax()) == 1  # the smallest client
    assert 0.999 * 6 <= plan.epsilon_planned.max() <= 6
    assert plan.epsilon_planned.min() < 5.5


def test_given_noise_gives_epsilon():
    plan = make_plan(privacy(epsilon_target=None, noise_multiplier=1.0), SST2, federation(), ["a"])
    assert plan.noise_multiplier.tolist() == [1.0] * 3
    expected = [Accountant("rdp", 1e-5).epsilon([(1.0, 200 / n, 10_000)]) for n in SST2]
    assert plan.epsilon_planned == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epsilon_target": None}, ["privacy.epsilon_target", "noise_multiplier"]),
        ({"noise_multiplier": 0.3, "epsilon_target": 0.5}, ["noise_multiplier=0.3", "at least"]),
        ({"sampling": "fixed", "accountant": "pld"}, ["sampling=fixed", "accountant=rdp"]),
        ({"sampling": "shuffled", "unit": "client"}, ["sampling=shuffled", "poisson"]),
        ({"delta": None}, ["privacy.delta", "null", "1e-5"]),
        ({"delta": 0.0}, ["privacy.delta=0.0", "1e-5"]),
        ({"delta": 0.1}, ["privacy.delta=0.1", "1e-5"]),
        ({"epsilon_target": 0.0}, ["privacy.epsilon_target=0.0", "privacy=none"]),
        ({"epsilon_target": float("inf")}, ["privacy.epsilon_target=inf", "privacy=none"]),
        (
            {"epsilon_target": None, "noise_multiplier": 0.0},
            ["privacy.noise_multiplier=0.0", "privacy=none"],
        ),
        (
            {"epsilon_target": None, "noise_multiplier": 0.01},
            ["privacy.noise_multiplier=0.01", "0.1"],
        ),
        ({"max_grad_norm": None}, ["privacy.max_grad_norm", "needs a clip"]),
        ({"max_grad_norm": -1.0}, ["privacy.max_grad_norm=-1.0", "above 0"]),
        ({"accountant": "gdp"}, ["privacy.accountant", "gdp", "refused", "pld"]),
        ({"accountant": "pdl"}, ["privacy.accountant", "'pld'"]),
        ({"delta": 1e-3}, ["privacy.delta=0.001", "24526", "published", "4e-06"]),
        ({"epsilon_target": 0.01}, ["privacy.epsilon_target=0.01", "rdp", "pld"]),
    ],
)
def test_bad_plans_are_refused_in_one_line(changes, words):
    with pytest.raises(ConfigError) as error:
        make_plan(privacy(**changes), SST2, federation(), ["a"])
    text = str(error.value)
    assert "\n" not in text and len(text) <= 200
    for word in words:
        assert word in text


@pytest.mark.parametrize("sizes", [[3], [50] * 4])
def test_a_delta_of_a_tenth_promises_nothing_however_few_the_units(sizes):
    """Of three units 0.2 is below 1/n: the rule about n alone would not even warn."""
    assert make_plan(privacy(delta=0.09), sizes, federation(), ["a"]) is not None
    with pytest.raises(ConfigError, match=r"privacy\.delta=0\.2 should be .* well below 1/n"):
        make_plan(privacy(delta=0.2), sizes, federation(), ["a"])


def test_too_large_a_target_names_the_noise_to_use():
    with pytest.raises(ConfigError, match=r"epsilon_target=500.*noise_multiplier=0\.2"):
        make_plan(
            privacy(epsilon_target=500.0), [24_526], federation(rounds=1, local_steps=1), ["a"]
        )


def test_delta_not_below_one_over_n_warns():
    plan = make_plan(privacy(), [121_282, 24_526], federation(num_clients=2), ["a"])
    assert len(plan.warnings) == 1
    assert "1 of 2 clients" in plan.warnings[0] and "8.2e-06" in plan.warnings[0]
    assert make_plan(privacy(), SST2, federation(), ["a"]).warnings == ()


def test_batch_larger_than_client_is_rate_one_with_warning():
    plan = make_plan(privacy(), [150, 24_526], federation(num_clients=2), ["a"])
    assert plan.sample_rate[0] == 1.0 and plan.expected_batch[0] == 150.0
    assert "1 of 2 clients have fewer units" in plan.warnings[0]
    assert plan.epsilon_planned.max() <= 6.0


@pytest.mark.parametrize(("share", "rounds"), [(0.5, 564), (0.3, 358), (0.1, 138), (1.0, 1000)])
def test_participation_plan_is_mean_plus_four_sd(share, rounds):
    assert planned_rounds(1000, share) == rounds
    assert planned_rounds(3, share) <= 3


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.999, 1 - 1e-9])
def test_a_stated_quantile_is_the_binomials(quantile):
    """Against the distribution summed term by term: the least number that is likely enough."""
    rounds, share = 60, 0.3
    terms = [math.comb(rounds, k) * share**k * (1 - share) ** (rounds - k) for k in range(61)]
    least = next(n for n in range(61) if math.fsum(terms[: n + 1]) >= quantile)
    often = Participation.of(rounds, share, quantile)
    assert often.planned == planned_rounds(rounds, share, quantile) == least
    assert often.beyond == pytest.approx(math.fsum(terms[least + 1 :]), rel=1e-6)
    assert planned_rounds(60, 1.0, quantile) == 60 and planned_rounds(4, 0.01, 0.5) == 1


def test_a_lower_quantile_needs_less_noise_and_the_statement_says_so():
    some = federation(num_clients=10, cohort_size=3, cohort_sampling="poisson")
    usual, often = (
        make_plan(privacy(participation_quantile=q), [22_450] * 10, some, ["a"])
        for q in (None, 0.9)
    )
    assert often.noise_multiplier.max() < usual.noise_multiplier.min()
    assert often.epsilon_planned.max() <= 6.0
    said, before = statement(often)["participation"], statement(usual)["participation"]
    assert said["planned"] == often.planned_rounds[0] < 358 == before["planned"]
    assert (said["rule"], before["rule"]) == ("quantile 0.9", "mean + 4 sd")
    assert before["beyond"] < 1e-4 < said["beyond"] <= 0.1 and "then sits out" in said["note"]
    assert statement(make_plan(privacy(), SST2, federation(), ["a"]))["participation"] is None


@pytest.mark.parametrize("scheme", ["fixed", "poisson"])
def test_partial_participation_plans_fewer_steps(scheme):
    some = federation(num_clients=10, cohort_size=3, cohort_sampling=scheme)
    plan = make_plan(privacy(), [22_450] * 10, some, ["a"])
    assert plan.planned_rounds.tolist() == [358] * 10
    assert plan.planned_steps.tolist() == [3580] * 10
    # the coin is per round: never the rate of a step times the participation
    assert plan.sample_rate == pytest.approx([200 / 22_450] * 10)


def test_many_sizes_go_to_rates_that_are_not_smaller():
    sizes = list(range(5_000, 5_600))
    some = federation(num_clients=600, rounds=10)
    given = privacy(epsilon_target=None, noise_multiplier=1.0)
    plan = make_plan(given, sizes, some, ["a"])
    assert len(set(plan.accounted_rate)) <= 13
    assert (plan.accounted_rate >= plan.sample_rate).all()
    assert (plan.accounted_rate <= plan.sample_rate * 1.0101).all()
    for client in (0, 300, 599):  # the bound is valid: real rate, real epsilon, below the claim
        real = (plan.noise_multiplier[client], plan.sample_rate[client], 100)
        assert Accountant("rdp", 1e-5).epsilon([real]) <= plan.epsilon_planned[client]


def test_client_unit_counts_rounds():
    some = federation(num_clients=100, cohort_size=10, cohort_sampling="poisson")
    plan = make_plan(privacy(unit="client", delta=1e-3), [7] * 100, some, ["a"])
    assert plan.sample_rate.tolist() == [0.1] * 100
    assert plan.expected_batch.tolist() == [10.0] * 100
    assert plan.planned_steps.tolist() == [1000] * 100
    assert plan.examples.tolist() == [100] * 100


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"cohort_sampling": "fixed", "cohort_size": 10, "num_clients": 100},
            ["cohort_sampling=fixed", "poisson"],
        ),
        ({"weights": "size", "num_clients": 100}, ["federation.weights=uniform"]),
    ],
)
def test_client_unit_refuses_what_is_not_covered(changes, words):
    with pytest.raises(ConfigError) as error:
        make_plan(privacy(unit="client"), [7] * 100, federation(**changes), ["a"])
    assert all(word in str(error.value) for word in words)


def test_round_points_are_all_rounds_or_about_48():
    assert round_points(32, 48).tolist() == list(range(1, 33))
    points = round_points(1000, 48)
    assert points[0] == 1 and points[-1] == 1000 and len(points) <= 48
    assert (np.diff(points) > 0).all() and np.diff(points).max() <= 45


def test_spent_with_rdp_is_exact_at_any_step():
    plan = make_plan(privacy(), SST2, federation(), ["a"])
    taken = np.array([0, 1237, 10_000])
    values = spent(plan, taken)
    assert values[0] == 0.0
    one = (plan.noise_multiplier[1], plan.sample_rate[1], 1237)
    assert values[1] == Accountant("rdp", 1e-5).epsilon([one])
    assert values[2] == plan.epsilon_planned[2]


def test_spent_with_pld_is_a_tight_upper_bound_that_ends_exactly():
    given = privacy(accountant="pld", epsilon_target=None, noise_multiplier=2.0)
    plan = make_plan(given, [2_000, 2_000], federation(num_clients=2, rounds=60), ["a"])
    trajectory = []
    for round in range(61):
        pair = spent(plan, np.array([round * 10, 300]))
        assert pair[1] == trajectory[30][1] if round > 30 else True
        trajectory.append(pair)
    values = np.array(trajectory)[:, 0]
    assert values[0] == 0.0 and values[60] == plan.epsilon_planned[0]
    assert (np.diff(values) >= 0).all()
    for round in (1, 7, 29, 59):
        exact = Accountant("pld", 1e-5).epsilon([(2.0, 0.1, round * 10)])
        assert exact <= values[round] <= 1.05 * exact
        assert spent(plan, np.array([round * 10, 0]), exact=True)[0] == exact
    beyond = spent(plan, np.array([700, 0]))[0]
    assert beyond == Accountant("pld", 1e-5).epsilon([(2.0, 0.1, 700)]) > plan.epsilon_planned[0]


def test_planning_is_quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for accountant in ("pld", "rdp", "prv"):
            make_plan(
                privacy(accountant=accountant, epsilon_target=1.0),
                [400],
                federation(num_clients=1, rounds=2),
                ["a"],
            )


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_an_epsilon_without_end_is_refused(accountant):
    """Noise 0.1 on every row of every step promises nothing, and takes hours to say how little."""
    asked = privacy(noise_multiplier=0.1, epsilon_target=None, accountant=accountant)
    rounds = federation(rounds=1000, local_steps=50, local_batch_size=100)
    with pytest.raises(ConfigError, match=r"epsilon above 10,000 .*privacy=none"):
        make_plan(asked, [100, 200], rounds, ())
