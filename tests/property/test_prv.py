"""PRV stands between PLD and PLD + 0.02, RDP above PLD, over random plans."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.privacy.accounting.accountants import COARSE


def check(noise: float, rate: float, steps: int) -> None:
    """One random plan; those of an epsilon above 20 are not plans."""
    history = [(noise, rate, steps)]
    assume(Accountant("pld", 1e-5, interval=COARSE).epsilon(history) <= 20.0)
    pld = Accountant("pld", 1e-5).epsilon(history)
    assert pld <= Accountant("prv", 1e-5).epsilon(history) <= pld + 0.02
    assert pld <= Accountant("rdp", 1e-5).epsilon(history)


def plans(count: int):
    """Run a test on this many random plans."""

    def wrap(test):
        some = settings(
            max_examples=count,
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        )
        return some(given(st.floats(0.5, 5.0), st.floats(1e-4, 0.05), st.integers(1, 20_000))(test))

    return wrap


@plans(10)
def test_ten_plans(noise, rate, steps):
    check(noise, rate, steps)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@plans(200)
def test_two_hundred_plans(noise, rate, steps):
    check(noise, rate, steps)
