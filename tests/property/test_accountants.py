from __future__ import annotations

import math

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.privacy.accounting.accountants import COARSE
from ffalora_cli.privacy.planning.assumptions import tuning
from ffalora_cli.privacy.planning.make import make_plan
from tests.privacy.cases import federation, privacy

noises = st.floats(0.7, 5.0)
rates = st.floats(1e-3, 0.05)
counts = st.integers(1, 20_000)
deltas = st.sampled_from([1e-6, 1e-5, 1e-4])
few = settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@few
@given(noises, rates, counts, deltas)
def test_pld_is_below_prv_and_rdp(noise, rate, steps, delta):
    history = [(noise, rate, steps)]
    pld = Accountant("pld", delta).epsilon(history)
    prv = Accountant("prv", delta).epsilon(history)
    assert prv - 0.02 <= pld <= prv
    assert pld <= Accountant("rdp", delta).epsilon(history)
    assert pld <= Accountant("pld", delta, interval=COARSE).epsilon(history)


@few
@given(noises, rates, counts, deltas, st.floats(1.01, 2.0))
def test_epsilon_moves_the_right_way(noise, rate, steps, delta, more):
    for accountant in ("pld", "rdp"):
        base = Accountant(accountant, delta).epsilon([(noise, rate, steps)])
        assert Accountant(accountant, delta).epsilon([(noise * more, rate, steps)]) <= base
        assert (
            Accountant(accountant, delta).epsilon([(noise, min(1.0, rate * more), steps)]) >= base
        )
        assert (
            Accountant(accountant, delta).epsilon([(noise, rate, math.ceil(steps * more))]) >= base
        )
        assert Accountant(accountant, delta / more).epsilon([(noise, rate, steps)]) >= base


@few
@given(st.floats(0.5, 8.0), rates, st.integers(10, 5_000), st.sampled_from(["pld", "rdp"]))
def test_calibration_ends_just_below_its_target(target, rate, steps, accountant):
    noise = Accountant(accountant, 1e-5).noise_for(target, rate, steps)
    assert 0.999 * target <= Accountant(accountant, 1e-5).epsilon([(noise, rate, steps)]) <= target
    # 1e-5 from the root: a hair less noise passes the target
    assert Accountant(accountant, 1e-5).epsilon([(noise * (1 - 1.2e-5), rate, steps)]) > target


@few
@given(
    st.lists(st.tuples(st.floats(0.6, 5.0), rates, st.integers(1, 3_000)), min_size=1, max_size=3),
    st.integers(2, 30),
    st.sampled_from(["geometric", "poisson", "fixed"]),
    st.sampled_from(["pld", "rdp", "prv"]),
    st.sampled_from(["poisson", "shuffled"]),
)
def test_a_search_is_never_cheaper_than_one_run(
    clients, trials, distribution, accountant, sampling
):
    """Of the very unit that is claimed: a text that all these clients hold."""
    sizes = [max(2, round(20 / rate)) for _, rate, _ in clients]
    noise, steps = clients[0][0], max(steps for _, _, steps in clients)
    given = privacy(
        epsilon_target=None, noise_multiplier=noise, accountant=accountant, sampling=sampling,
        trials=trials, trial_distribution=distribution,
    )  # fmt: skip
    some = federation(
        num_clients=len(sizes), local_batch_size=20, local_steps=1, rounds=min(steps, 32)
    )
    shared = (tuple(range(len(sizes))),) if len(sizes) > 1 else ()
    plan = make_plan(given, sizes, some, ["a"], shared)
    found = tuning(plan, plan.planned_steps, plan.epsilon_claimed)
    assert found >= plan.epsilon_claimed
    if distribution == "fixed" and accountant != "prv":
        assert found > plan.epsilon_claimed


@few
@given(st.lists(st.tuples(st.floats(0.8, 3.0), rates, st.integers(1, 500)), max_size=3))
def test_mixed_histories_equal_the_library_step_by_step(history):
    oracle = PLDAccountant(value_discretization_interval=1e-4)
    for noise, rate, steps in history:
        event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
        oracle.compose(dp_accounting.SelfComposedDpEvent(event, steps))
    wanted = oracle.get_epsilon(1e-5)
    assert Accountant("pld", 1e-5).epsilon(history) == pytest.approx(wanted, abs=1e-7)
    split = [(n, q, 1) for n, q, _ in history] + [(n, q, t - 1) for n, q, t in history]
    for accountant in ("pld", "rdp"):  # run-length coding and order change nothing
        whole = Accountant(accountant, 1e-5).epsilon(history)
        assert Accountant(accountant, 1e-5).epsilon(split[::-1]) == pytest.approx(whole, abs=1e-7)


@pytest.mark.parametrize("accountant", ["pld", "rdp", "prv"])
def test_edges(accountant):
    assert Accountant(accountant, 1e-5).epsilon([]) == 0.0
    assert (
        Accountant(accountant, 1e-5).epsilon([(1.0, 0.0, 10), (1.0, 0.5, 0), (0.0, 0.5, 0)]) == 0.0
    )
    assert Accountant(accountant, 1e-5).epsilon([(0.0, 0.01, 1)]) == math.inf
    assert Accountant(accountant, 1e-5).epsilon([(1.0, 0.01, 5), (0.0, 1.0, 1)]) == math.inf
    # rate one: T steps are one Gaussian with noise / sqrt(T)
    many = Accountant(accountant, 1e-5).epsilon([(30.0, 1.0, 900)])
    assert many == pytest.approx(Accountant(accountant, 1e-5).epsilon([(1.0, 1.0, 1)]), rel=1e-6)
    assert 4.37 < many < 4.73
    for history in ([(-1.0, 0.1, 1)], [(1.0, 1.1, 1)], [(1.0, 0.1, -1)], [(math.nan, 0.1, 1)]):
        with pytest.raises(ValueError, match="not a step"):
            Accountant(accountant, 1e-5).epsilon(history)
    for delta in (0.0, 1.0, -1e-5, math.nan):
        with pytest.raises(ConfigError, match=r"privacy\.delta"):
            Accountant(accountant, delta).epsilon([(1.0, 0.1, 1)])


def test_absurd_epsilon_is_infinite_not_an_error():
    assert Accountant("pld", 1e-5).epsilon([(1.428176, 0.5, 10_000)]) == math.inf


def test_gdp_is_refused_and_misspellings_are_named():
    with pytest.raises(ConfigError, match="refused"):
        Accountant("gdp", 1e-5).epsilon([(1.0, 0.1, 1)])
    with pytest.raises(ConfigError, match="did you mean 'rdp'"):
        Accountant("rpd", 1e-5).epsilon([(1.0, 0.1, 1)])


def test_library_names_a_version():
    assert Accountant("pld", 1e-5).library.split()[0] == "dp-accounting"
    assert Accountant("rdp", 1e-5).library == Accountant("prv", 1e-5).library
