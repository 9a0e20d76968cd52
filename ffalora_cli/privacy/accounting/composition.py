"""Epsilon after many different numbers of equal steps at once.

The step's loss distribution (connect the dots: Doroshenko et al. 2022, arXiv 2207.04380) is
transformed once; every number of steps is a power of the transform (Koskela et al. 2020, arXiv
1906.03049) in a window outside which a Chernoff bound leaves nothing that matters. An upper bound,
tested against dp-accounting, some ten times faster for the 48 points of a curve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ffalora_cli.privacy.accounting.loss_distribution import Curve, divergences, fitting
from ffalora_cli.types import Floats, Ints

TAIL = 1e-7  # share of delta given to what lies outside the window
_ORDERS = np.geomspace(0.05, 2000.0, 40)  # of the Chernoff bound
_STRETCHES = 4096  # of losses that it looks at


def trajectory(
    noise_multiplier: float,
    sample_rate: float,
    steps: Sequence[int] | Ints,
    delta: float,
    interval: float,
) -> Floats:
    """Epsilon after each number of Poisson-sampled Gaussian steps, add/remove one.

    Returns:
        Upper bounds ``[points]``, the larger of removing and adding.
    """
    counts = np.asarray(steps, dtype=np.int64)
    width = fitting([(noise_multiplier, sample_rate, 1)], interval)
    return composed(divergences(noise_multiplier, sample_rate, width), counts, delta, width)


def composed(curves: Sequence[Curve], counts: Ints, delta: float, interval: float) -> Floats:
    """Epsilon after each number of equal steps, the largest of several pairs of data sets.

    ``curves`` are of one step, one a pair, on a grid of ``interval``; ``counts [points]`` are above
    zero; upper bounds ``[points]`` come back.
    """
    found = np.zeros(len(counts))
    for low, deltas in curves:
        masses = _masses(deltas, interval)
        values = _composed(masses, low, float(deltas[-1]), counts, delta, interval)
        found = np.maximum(found, values)
    return found


def _masses(deltas: Floats, interval: float) -> Floats:
    """Probabilities of the losses ``[n]`` whose hockey-stick curve goes through ``deltas [n]``.

    Between neighbouring losses that curve is linear in exp(epsilon), so each mass is a second
    difference (the paper's algorithm 1).
    """
    change = np.diff(np.minimum.accumulate(deltas))
    masses = np.empty_like(deltas)
    masses[0] = 1.0 - deltas[0] + change[0] / math.expm1(interval)
    masses[1:-1] = (change[1:] - change[:-1] * math.exp(interval)) / math.expm1(interval)
    masses[-1] = change[-1] / math.expm1(-interval)
    return np.maximum(masses, 0.0)


def _composed(
    masses: Floats, low: int, infinite: float, counts: Ints, delta: float, interval: float
) -> Floats:
    """Epsilon of the masses (losses ``low``, ``low`` + 1, ... intervals) composed ``counts``."""
    first, last = _windows(masses, counts, TAIL * delta)
    spectra: dict[int, npt.NDArray[np.complex128]] = {}
    values = np.empty(len(counts))
    for i, count in enumerate(counts.tolist()):
        size = 1 << int(last[i] - first[i]).bit_length()
        if size not in spectra:  # folded: only indices modulo the size are needed
            padded = np.pad(masses, (0, -len(masses) % size)).reshape(-1, size).sum(0)
            spectra[size] = np.log(np.fft.rfft(padded) + 1e-300)
        total = np.fft.irfft(np.exp(count * spectra[size]), size)
        total = np.maximum(np.roll(total, -int(first[i] % size)), 0.0)
        lost = TAIL * delta - math.expm1(count * math.log1p(-infinite))
        values[i] = _epsilon(total, count * low + int(first[i]), lost, delta, interval)
    return values


def _windows(masses: Floats, counts: Ints, tail: float) -> tuple[Ints, Ints]:
    """First and last index that matter after each count: less than ``tail`` lies beyond either.

    Chernoff: P(S >= b) <= exp(count * log E[exp(t X)] - t * b), the best of several t; X in
    intervals above the lowest loss. A mass inside a stretch of losses counts at its two ends, in
    shares that keep the mean: exp is convex, so E grows, by next to nothing.
    """
    highest = len(masses) - 1
    stretch, inside = np.divmod(np.arange(len(masses)), width := 1 + highest // _STRETCHES)
    low, high = (np.bincount(stretch, masses * part) for part in (width - inside, inside))
    masses = (np.append(low, 0.0) + np.append(0.0, high)) / width
    indices = np.arange(len(masses), dtype=np.float64) * width
    mean = float(indices @ masses) / float(masses.sum())
    away = indices - mean
    with np.errstate(divide="ignore"):
        logs = np.log(masses)
    room = -math.log(tail)
    bounds = []
    for sign in (-1.0, 1.0):
        orders = _ORDERS / max(1.0, float(np.abs(away).max()))  # of one index
        exponents = logs + sign * orders[:, None] * away  # [orders, n]
        peak = exponents.max(1, keepdims=True)
        growth = np.log(np.exp(exponents - peak).sum(1)) + peak[:, 0]
        reach = ((counts[:, None] * growth + room) / orders).min(1)  # [counts]
        bounds.append(counts * mean + sign * reach)
    first = np.maximum(0, np.floor(bounds[0])).astype(np.int64)
    last = np.minimum(counts * highest, np.ceil(bounds[1])).astype(np.int64)
    return first, np.maximum(last, first + 1)


def _epsilon(masses: Floats, low: int, infinite: float, delta: float, interval: float) -> float:
    """Smallest epsilon >= 0 whose hockey-stick divergence is at most delta.

    On [l_(k-1), l_k) the divergence is inf + sum_(j >= k) p_j (1 - exp(epsilon - l_j)).
    """
    if infinite > delta:
        return math.inf
    start = min(max(0, 1 - low), len(masses))  # losses above zero
    losses = (low + np.arange(start, len(masses))) * interval
    kept = masses[start:]
    if not len(kept):
        return 0.0
    upper = infinite + np.cumsum(kept[::-1])[::-1]  # U_k
    lower = np.cumsum((kept * np.exp(-losses))[::-1])[::-1]  # L_k
    if upper[0] - lower[0] <= delta:
        return 0.0
    above = np.append(upper[1:], infinite) - np.exp(losses) * np.append(lower[1:], 0.0)
    k = int(np.argmax(above <= delta))  # the divergence at l_k is the first within delta
    if lower[k] <= 0.0:
        return float(losses[k])
    return min(float(losses[k]), math.log((upper[k] - delta) / lower[k]))
