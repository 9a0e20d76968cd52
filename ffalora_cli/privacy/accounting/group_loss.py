"""Hockey-stick divergences of one Poisson-sampled Gaussian step for two other pairs of data sets.

*Several units together*: k units more or less, each drawn by itself with the sample rate, move the
sum by the number drawn; the pair is a binomial mixture of Gaussians against the middle one (Ganesh
2024, arXiv 2401.10294); dp-accounting's mixture of Gaussians is the same, point by point.

*One row of a unit of several*: the unit's clipped sum moves from u to w with ``|u|``, ``|w|`` and
``|u - w|`` at most one clip. By advanced joint convexity (Balle, Barthe, Gaboardi 2018, theorem 2)
both directions of that pair are below the curve R of *removing a whole unit* at every loss >= 0,
and below zero one direction is the other's mirror image: H(a) = 1 - a + a H'(1 / a). So the curve
that is R above zero and its mirror image below bounds every such pair, step by step, and composes.
R itself does not: over many steps, sums at an angle to one another lose more than a whole unit.
"""

from __future__ import annotations

import math

import numpy as np

from ffalora_cli.privacy.accounting.loss_distribution import Curve, divergences
from ffalora_cli.types import Floats, Ints

_TAIL = 10.0  # standard deviations beyond which less than exp(-50) lies
_NEWTON = 60  # steps at most; some ten are taken


def several_units(
    noise_multiplier: float, sample_rate: float, units: int, interval: float
) -> list[Curve]:
    """Curves of one step for removing and for adding ``units`` > 0 units of one client at once."""
    from scipy.special import log_ndtr, ndtr
    from scipy.stats import binom

    with np.errstate(divide="ignore"):
        weights = binom.logpmf(np.arange(units + 1), units, sample_rate)  # [units + 1]
    drawn = np.arange(units + 1)[np.isfinite(weights)]
    weights, noise = weights[np.isfinite(weights)], noise_multiplier
    ends = _loss(np.array([-_TAIL * noise, units + _TAIL * noise]), drawn, weights, noise)
    low, high = math.floor(ends[0] / interval), math.ceil(ends[1] / interval)

    losses = np.arange(low, high + 1) * interval
    x = _place(losses, drawn, weights, noise)  # the mixture's loss is ``losses`` there
    above = np.exp(weights) @ ndtr((drawn[:, None] - x) / noise)
    removed = above - np.exp(losses + log_ndtr(-x / noise))
    removed = np.where(np.isfinite(x), removed, -np.expm1(losses))

    losses = np.arange(-high, -low + 1) * interval
    x = _place(-losses, drawn, weights, noise)
    below = np.logaddexp.reduce(weights[:, None] + log_ndtr((x - drawn[:, None]) / noise))
    added = np.where(np.isfinite(x), ndtr(x / noise) - np.exp(losses + below), 0.0)
    return [(low, np.clip(removed, 0.0, 1.0)), (-high, np.clip(added, 0.0, 1.0))]


def one_row(noise_multiplier: float, sample_rate: float, interval: float) -> list[Curve]:
    """Curve of one step for adding or removing one row of a unit of several (both ways alike)."""
    low, removed = divergences(noise_multiplier, sample_rate, interval)[0]
    upper = removed[-low:]  # losses 0, 1, ... intervals
    losses = np.arange(1, len(upper)) * interval
    mirrored = -np.expm1(-losses) + np.exp(-losses) * upper[1:]
    return [(-len(losses), np.concatenate([mirrored[::-1], upper]))]


def _loss(x: Floats, drawn: Ints, weights: Floats, noise: float) -> Floats:
    """log(mixture / N(0)) at ``x [points]``; convex and increasing."""
    found: Floats = np.logaddexp.reduce(_terms(x, drawn, weights, noise))
    return found


def _terms(x: Floats, drawn: Ints, weights: Floats, noise: float) -> Floats:
    """Log of each component over N(0) ``[components, points]``."""
    return weights[:, None] + (drawn[:, None] * x - drawn[:, None] ** 2 / 2.0) / noise**2


def _place(losses: Floats, drawn: Ints, weights: Floats, noise: float) -> Floats:
    """Where the mixture has these losses ``[points]``; -inf below the least.

    Newton from the right of a convex increasing function never passes its root: it starts where one
    component alone has the loss.
    """
    some = drawn > 0
    least = weights[0] if drawn[0] == 0 else -math.inf
    starts = (losses - weights[some, None]) * noise**2 / drawn[some, None] + drawn[some, None] / 2.0
    x = starts.min(0)
    x[losses <= least] = -math.inf
    inside = np.flatnonzero(losses > least)
    for _ in range(_NEWTON):
        terms = _terms(x[inside], drawn, weights, noise)
        value = np.logaddexp.reduce(terms)
        slope = (np.exp(terms - value) * drawn[:, None]).sum(0) / noise**2
        with np.errstate(divide="ignore", invalid="ignore"):
            move = np.where(slope > 0.0, (value - losses[inside]) / slope, 0.0)
        x[inside] -= move
        inside = inside[np.abs(move) > 1e-12 * (1.0 + np.abs(x[inside]))]
        if not len(inside):
            break
    return x
