"""Epsilon of a history of subsampled Gaussian steps by PLD, RDP and PRV; ask an ``Accountant``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from ffalora_cli.config.errors import ConfigError, choose
from ffalora_cli.config.privacy_rules import check_fixed
from ffalora_cli.privacy.accounting import loss_distribution
from ffalora_cli.privacy.accounting.sampling import History, uses, without_replacement

LIBRARIES = {"pld": "dp-accounting", "rdp": "opacus", "prv": "opacus"}

# Width of PLD's grid of privacy losses. dp-accounting's default; ten times finer moves epsilon by
# less than 2e-4 (and costs ten times as much). COARSE is for values on the way, still upper bounds.
FINE = 1e-4
COARSE = 1e-3


def check_accountant(accountant: str) -> None:
    """Raise ConfigError for an accountant whose epsilon must not be claimed."""
    if accountant == "gdp":
        raise ConfigError(
            "privacy.accountant='gdp' is refused: its central-limit approximation understates "
            "epsilon (8.2 for a claimed 6); use privacy.accountant=pld"
        )
    if accountant not in LIBRARIES:
        raise choose("privacy.accountant", accountant, LIBRARIES)


def bound(accountant: str, history: History, delta: float, interval: float, sampling: str) -> float:
    """Epsilon of a history as the library gives it; the arguments are those of ``Accountant``."""
    if sampling == "shuffled":
        history = [(noise, 1.0, uses(rate, steps)) for noise, rate, steps in history]
    runs = _merge(history)
    if not runs:
        return 0.0
    if any(noise == 0.0 for noise, _, _ in runs):
        return math.inf
    if sampling == "fixed":
        check_fixed(accountant)
        halved = [(noise / 2.0, rate, steps) for noise, rate, steps in runs]  # 2 clips
        return without_replacement(halved, delta)
    if accountant == "pld":
        return _pld(runs, delta, interval)
    return epsilon_of_renyi(renyi(runs), delta) if accountant == "rdp" else _prv(runs, delta)


def _merge(history: History) -> list[tuple[float, float, int]]:
    """Add up equal steps; fold all steps of rate one into a single Gaussian (exact)."""
    counts: dict[tuple[float, float], int] = {}
    precision = 0.0  # sum of 1 / noise_multiplier^2 over the steps of rate one
    for noise, rate, steps in history:
        if not (noise >= 0.0 and 0.0 <= rate <= 1.0 and steps >= 0):  # NaN fails, too
            raise ValueError(f"not a step of the mechanism: {(noise, rate, steps)}")
        if rate == 0.0 or steps == 0:
            continue
        if rate == 1.0 and noise > 0.0:
            precision += steps / noise**2
        else:
            counts[noise, rate] = counts.get((noise, rate), 0) + int(steps)
    merged = [(noise, rate, steps) for (noise, rate), steps in counts.items()]
    return [*merged, (precision**-0.5, 1.0, 1)] if precision else merged


def _pld(runs: History, delta: float, interval: float) -> float:
    total = None
    if len(runs) == 1 and runs[0][1] == 1.0:  # one Gaussian: exact (Balle and Wang 2018)
        from dp_accounting import get_epsilon_gaussian

        return float(get_epsilon_gaussian(runs[0][0], delta))
    interval = loss_distribution.fitting(runs, interval) if runs else interval
    for noise, rate, steps in runs:
        loss = loss_distribution.step(noise, rate, interval, steps)
        loss = loss.self_compose(steps) if steps > 1 else loss
        total = loss if total is None else total.compose(loss)
    # An epsilon of hundreds: a mass so small that its reciprocal overflows, reported as infinite.
    with _silenced("overflow encountered in scalar divide"):
        return float(total.get_epsilon_for_delta(delta)) if total is not None else 0.0


@lru_cache(maxsize=4096)
def _rdp_step(noise: float, rate: float) -> Any:
    """Renyi divergence of one step at Opacus' orders ``[orders]``."""
    from opacus.accountants import RDPAccountant
    from opacus.accountants.analysis.rdp import compute_rdp

    return compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=RDPAccountant.DEFAULT_ALPHAS)


def renyi(history: History, sampling: str = "poisson") -> Any:
    """Renyi divergence of a history at Opacus' orders ``[orders]``; poisson or shuffled."""
    if sampling == "shuffled":
        history = [(noise, 1.0, uses(rate, steps)) for noise, rate, steps in history]
    return sum(_rdp_step(noise, rate) * steps for noise, rate, steps in _merge(history))


def epsilon_of_renyi(divergence: Any, delta: float) -> float:
    """Epsilon of a bound on the Renyi divergence ``[orders]``."""
    from opacus.accountants import RDPAccountant
    from opacus.accountants.analysis.rdp import get_privacy_spent

    # "Optimal order is the largest alpha": the list of orders ends at 63. Every order gives a valid
    # bound, so the value is loose there (very large noise), not wrong.
    with _silenced("Optimal order is the"):
        orders = RDPAccountant.DEFAULT_ALPHAS
        value, _ = get_privacy_spent(orders=orders, rdp=divergence, delta=delta)
    return float(value)


def _prv(runs: History, delta: float) -> float:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = list(runs)
    # log(1 - rate) is -inf at rate one and exp(-t) overflows at the far end of the grid, where the
    # mass is zero; "Optimal order" comes from the RDP bound that sizes the grid.
    with _silenced("divide by zero|overflow|invalid value|Optimal order is the"):
        try:
            return float(accountant.get_epsilon(delta))
        except (RuntimeError, ValueError, MemoryError) as error:
            raise ConfigError(
                f"privacy.accountant=prv fails numerically here ({error}); use pld"
            ) from error


@contextmanager
def _silenced(message: str) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=message)
        yield
