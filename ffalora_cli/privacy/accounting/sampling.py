"""Gives each sampler its neighbouring relation, and the bound that fits its batches.

Only Poisson sampling has an amplified epsilon for adding or removing one unit. Batches of a fixed
size get a bound for replacing one; reshuffled epochs get none of the amplification, since Poisson's
epsilon can understate theirs several times (Chua et al. 2024, arXiv 2403.17673 and 2411.04205).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ffalora_cli.privacy.accounting import loss_distribution

History = Sequence[tuple[float, float, int]]
"""Run-length coded steps: (noise_multiplier, sample_rate, steps)."""

RELATIONS = {
    "poisson": "add/remove one",
    "fixed": "replace one",
    "shuffled": "zero out one",
}
WORDS = {
    "poisson": "Poisson sampling",
    "fixed": "fixed-size sampling without replacement",
    "shuffled": "shuffled epochs without amplification",
}
NOTES = {
    "poisson": "each unit is drawn by itself at every step, so epsilon is amplified by the rate",
    "fixed": (
        "every batch has the same size and is drawn without replacement: amplified for replacing "
        "one unit, which changes the sum by up to two clips"
    ),
    "shuffled": (
        "epochs are reshuffled: no amplification; a unit is used at most once an epoch, and "
        "epsilon is that of so many Gaussian releases. Removing a unit means that its gradient "
        "counts as zero while the batches stay as they are"
    ),
}

_GRANULE = 10**9  # rates of fixed-size batches are rounded up to multiples of 1 / _GRANULE


def uses(sample_rate: float, steps: int) -> int:
    """Most often that one row is used in ``steps`` steps of shuffled epochs: ceil(steps * rate).

    An epoch has ceil(1 / rate) batches and uses every row once.
    """
    return math.ceil(steps * sample_rate - 1e-9)  # B / n in floating point, a hair above a whole


def without_replacement(history: History, delta: float) -> float:
    """Epsilon for replacing one row under fixed-size batches (RDP).

    Wang, Balle, Kasiviswanathan 2019 (arXiv 1808.00087, theorem 27) by dp-accounting. Their noise
    is in units of the sensitivity for *replacing* a row.
    """
    from dp_accounting import NeighboringRelation
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_ONE)
    for noise, rate, steps in history:
        accountant.compose(fixed_size_event(noise, rate), steps)
    return float(accountant.get_epsilon(delta))


def fixed_size_event(noise: float, sample_rate: float) -> Any:
    """One step on a batch of fixed size, as dp-accounting names it; the rate is rounded up."""
    from dp_accounting import GaussianDpEvent, SampledWithoutReplacementDpEvent

    size = min(_GRANULE, math.ceil(sample_rate * _GRANULE))
    return SampledWithoutReplacementDpEvent(_GRANULE, size, GaussianDpEvent(noise))


def replace_one_poisson(
    noise_multiplier: float, sample_rate: float, steps: int, delta: float, interval: float
) -> float:
    """Epsilon of Poisson-sampled steps for replacing one unit instead of adding or removing it."""
    loss = loss_distribution.replacing_step(noise_multiplier, sample_rate, interval)
    return float(loss.self_compose(steps).get_epsilon_for_delta(delta))
