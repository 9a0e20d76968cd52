"""Privacy loss distribution of one subsampled Gaussian step, built in milliseconds.

dp-accounting evaluates the hockey-stick divergence of every grid point in a Python loop, which is
two thirds of a calibration. Here the same divergences are one array expression; the discretization
(connect the dots, Doroshenko et al. 2022, arXiv 2207.04380) and the composition stay the library's.
Tested equal to the library's own construction.

Here and in the files that build on it a ``noise_multiplier`` is > 0 and in units of the clip (the
sensitivity), a ``sample_rate`` in (0, 1], ``steps`` > 0, ``delta`` in (0, 1), and ``interval`` the
width of the grid of privacy losses.

The pairs of several units together, and of one row of a unit, stand in ``group_loss``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ffalora_cli.types import Floats

Curve = tuple[int, Floats]
"""Index of the lowest loss in units of the grid, divergence at it and at every loss above it."""

COARSEST = 0.25  # intervals of the grid in the typical loss of a step: its variance grows by < 2 %
MOST_LOSSES = 5e5  # points of a step's grid that a finer interval may lead to


def fitting(history: Sequence[tuple[float, float, int]], interval: float) -> float:
    """The interval, halved until it is at most a quarter of a typical step's loss.

    Rounding a step's loss to a grid adds some of the interval's square to its variance, with every
    step: at noise 50, rate 1e-3 and a million steps a grid of 1e-4 gives 0.125 where 0.06 is near.
    A step's loss has variance ``rate^2 (exp(1 / noise^2) - 1)`` (chi-square).
    ``history`` is not empty.
    """
    taken = sum(steps for _, _, steps in history)
    squares = [n * q * q * math.expm1(min(noise**-2.0, 700.0)) for noise, q, n in history]
    typical = math.sqrt(sum(squares) / taken)
    tops = [math.log1p(q * math.exp(min(10.0 / z + 0.5 / z**2, 700.0))) for z, q, _ in history]
    least = max(typical * COARSEST, max(tops) / MOST_LOSSES)
    return (
        interval if interval <= least else interval * 0.5 ** math.ceil(math.log2(interval / least))
    )


_MANY = 10  # steps of two losses or more that the library composes densely: 2^10 is above its limit


@lru_cache(maxsize=64)
def step(noise_multiplier: float, sample_rate: float, interval: float, steps: int = 1) -> Any:
    """Privacy loss distribution of one step, add/remove one.

    ``steps`` is how many will be composed. The library finds out whether so many make a dense
    distribution by writing size ** steps down, minutes for a million; of many they do.

    Returns:
        A ``dp_accounting.pld`` ``PrivacyLossDistribution``, an upper bound (pessimistic).
    """
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

    parts = [
        _pmf(curve, interval) for curve in divergences(noise_multiplier, sample_rate, interval)
    ]
    return PrivacyLossDistribution(*(p.to_dense_pmf() if steps >= _MANY else p for p in parts))


def replacing_step(noise_multiplier: float, sample_rate: float, interval: float) -> Any:
    """Privacy loss distribution of one step for replacing a unit; ``sample_rate`` is below one.

    Returns:
        A ``dp_accounting.pld`` ``PrivacyLossDistribution``, an upper bound (pessimistic).
    """
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

    curve = _curve("REPLACE", _replace, noise_multiplier, sample_rate, interval)
    return PrivacyLossDistribution(_pmf(curve, interval))


def divergences(noise_multiplier: float, sample_rate: float, interval: float) -> list[Curve]:
    """Hockey-stick divergences of one step at the losses that matter, for removing and for adding.

    Returns:
        Two curves; at the highest loss the divergence is negligible.
    """
    pairs = (("REMOVE", _remove), ("ADD", _add))
    return [_curve(*pair, noise_multiplier, sample_rate, interval) for pair in pairs]


def _curve(
    adjacency: str,
    divergence: Callable[[Floats, float, float], Floats],
    noise: float,
    rate: float,
    interval: float,
) -> Curve:
    """A divergence between the ends that the library finds for this adjacency."""
    from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss

    kind = AdjacencyType[adjacency]
    loss = GaussianPrivacyLoss(noise, sampling_prob=rate, adjacency_type=kind)
    ends = loss.connect_dots_bounds()
    low, high = math.floor(ends.epsilon_lower / interval), math.ceil(ends.epsilon_upper / interval)
    losses = np.arange(low, high + 1) * interval
    return low, np.clip(divergence(losses, noise, rate), 0.0, 1.0)


def _pmf(curve: Curve, interval: float) -> Any:
    """The library's discretisation of a curve."""
    from dp_accounting.pld.pld_pmf import create_pmf_pessimistic_connect_dots_fixed_gap

    low, deltas = curve
    return create_pmf_pessimistic_connect_dots_fixed_gap(
        interval, low, low + len(deltas) - 1, deltas
    )


def _unsampled(losses: Floats, rate: float) -> Floats:
    """Loss of the Gaussian whose mixture at ``rate`` has these losses: log(1 + (e^l - 1) / q)."""
    found: Floats = losses if rate == 1.0 else np.log1p(np.expm1(losses) / rate)
    return found


def _remove(losses: Floats, noise: float, rate: float) -> Floats:
    """Hockey-stick divergence of (1-q) N(0) + q N(-1) from N(0) at each loss ``[points]``."""
    from scipy.special import log_ndtr, ndtr

    found: Floats = -np.expm1(losses)  # where the loss is below every loss of the mixture
    inside = losses > (math.log1p(-rate) if rate < 1.0 else -math.inf)
    loss = losses[inside]
    x = -0.5 - noise**2 * _unsampled(loss, rate)  # the mixture's loss is ``loss`` at x
    upper = (1.0 - rate) * ndtr(x / noise) + rate * ndtr((x + 1.0) / noise)
    found[inside] = upper - np.exp(loss + log_ndtr(x / noise))
    return found


def _add(losses: Floats, noise: float, rate: float) -> Floats:
    """Hockey-stick divergence of N(0) from (1-q) N(0) + q N(1) at each loss ``[points]``."""
    from scipy.special import log_ndtr, ndtr

    found: Floats = np.zeros_like(losses)  # where the loss is above every loss of the mixture
    inside = losses < (-math.log1p(-rate) if rate < 1.0 else math.inf)
    loss = losses[inside]
    x = 0.5 + noise**2 * _unsampled(-loss, rate)
    below = log_ndtr(x / noise) + math.log1p(-rate) if rate < 1.0 else np.full_like(x, -math.inf)
    lower = np.logaddexp(below, math.log(rate) + log_ndtr((x - 1.0) / noise))
    found[inside] = ndtr(x / noise) - np.exp(loss + lower)
    return found


def _replace(losses: Floats, noise: float, rate: float) -> Floats:
    """Hockey-stick divergence of (1-q) N(0) + q N(-1) from (1-q) N(0) + q N(1) ``[points]``.

    The loss at x is log((p + c / u) / (p + c u)) with u = e^(x / noise^2), p = 1 - q and
    c = q e^(-1 / (2 noise^2)): a quadratic in u, solved by asinh.
    """
    from scipy.special import log_ndtr, ndtr

    half = np.abs(losses) / 2.0
    with np.errstate(divide="ignore"):  # the sinh of a loss of zero
        sinh = half + np.log1p(-np.exp(-2.0 * half)) - math.log(2.0)  # of these three, the logs
    log = sinh + math.log1p(-rate) - math.log(rate) + 0.5 / noise**2
    asinh = np.logaddexp(log, 0.5 * np.logaddexp(2.0 * log, 0.0))
    x = -(noise**2) * (half + asinh) * np.sign(losses)  # the mixtures' loss is ``losses`` at x
    upper = (1.0 - rate) * ndtr(x / noise) + rate * ndtr((x + 1.0) / noise)
    lower = np.logaddexp(
        math.log1p(-rate) + log_ndtr(x / noise), math.log(rate) + log_ndtr((x - 1.0) / noise)
    )
    return upper - np.exp(losses + lower)
