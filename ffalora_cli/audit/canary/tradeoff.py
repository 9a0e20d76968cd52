"""Trade-off curves of mechanisms, and families of them ordered by one number."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np
from scipy import optimize, stats

SPACING = 0.02  # of the epsilons at which a curve is known; more would only tighten it
WIDEST = 40.0  # largest of them


@dataclass(frozen=True)
class Curve:
    """What a privacy profile (epsilon, delta(epsilon)), both relations, says about any event.

    If an event has probability y on one data set, its probability x on a neighbour is at least the
    largest of ``(y - delta) e^-epsilon`` and ``1 - delta - e^epsilon (1 - y)`` (the first for the
    event, the second for its complement). Fewer epsilons make a weaker curve, never a wrong one.

    Attributes:
        slopes: of those bounds as functions of y, ascending.
        intercepts: of the same.
    """

    slopes: tuple[float, ...] = field(repr=False)
    intercepts: tuple[float, ...] = field(repr=False)

    @staticmethod
    def from_profile(epsilons: np.ndarray, deltas: np.ndarray) -> Curve:
        """A curve from upper bounds on delta ``[n]`` at epsilons >= 0 ``[n]``, ascending."""
        up, down = np.exp(epsilons), np.exp(-epsilons)
        slopes = np.concatenate([[0.0], down[::-1], up])
        intercepts = np.concatenate([[0.0], (-deltas * down)[::-1], 1.0 - deltas - up])
        return Curve(tuple(slopes.tolist()), tuple(intercepts.tolist()))


class Family(Protocol):
    """Curves ordered by a strength: a larger one is less private."""

    @property
    def claimed(self) -> float:
        """Strength of the mechanism that is claimed."""
        ...

    def curve(self, strength: float) -> Curve:
        """The trade-off curve of this strength, or a less private one very close to it."""
        ...

    def epsilon(self, strength: float, delta: float) -> float:
        """Epsilon of this strength at ``delta``."""
        ...


def gaussian_delta(epsilon: np.ndarray | float, mu: float) -> np.ndarray:
    """Delta of the Gaussian mechanism with sensitivity / noise sd = ``mu``.

    Balle and Wang, ICML 2018, arXiv 1805.06530, Theorem 8.
    """
    tail = stats.norm.logcdf(-np.asarray(epsilon) / mu - mu / 2) + epsilon
    return stats.norm.cdf(-np.asarray(epsilon) / mu + mu / 2) - np.exp(tail)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon of the same mechanism at ``delta``."""
    if float(gaussian_delta(0.0, mu)) <= delta:
        return 0.0
    limit = mu * mu / 2 + 40.0 * mu  # there delta < P[N(0, 1) < -40]
    return float(optimize.brentq(lambda e: float(gaussian_delta(e, mu)) - delta, 0.0, limit))


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The ``mu`` that has this epsilon at ``delta``."""
    return float(optimize.brentq(lambda mu: gaussian_epsilon(mu, delta) - epsilon, 1e-4, 50.0))


@dataclass(frozen=True)
class GaussianFamily:
    """One Gaussian release; the strength is ``mu`` = sensitivity / noise sd (mu-GDP)."""

    claimed: float

    def curve(self, strength: float) -> Curve:
        """Closed form; add and remove have the same curve."""
        epsilons = _grid(gaussian_epsilon(strength, 1e-12))
        return Curve.from_profile(epsilons, gaussian_delta(epsilons, strength))

    def epsilon(self, strength: float, delta: float) -> float:
        """Closed form."""
        return gaussian_epsilon(strength, delta)


@dataclass(frozen=True)
class SubsampledFamily:
    """Poisson-subsampled Gaussian steps; the strength is 1 / noise multiplier.

    Attributes:
        claimed: 1 / noise multiplier of the claim.
        sample_rate: of every step.
        steps: composed.
    """

    claimed: float
    sample_rate: float
    steps: int

    def curve(self, strength: float) -> Curve:
        """From the privacy loss distribution, rounded up; the larger delta of add and remove."""
        return _subsampled_curve(strength, self.sample_rate, self.steps)

    def epsilon(self, strength: float, delta: float) -> float:
        """As the accountant claims it."""
        from ffalora_cli.privacy.accounting.accountant import Accountant

        step = (1.0 / strength, self.sample_rate, self.steps)
        return Accountant("pld", delta).epsilon([step])


@lru_cache(maxsize=256)
def _subsampled_curve(strength: float, rate: float, steps: int) -> Curve:
    from dp_accounting.pld import privacy_loss_distribution

    from ffalora_cli.privacy.accounting.accountants import COARSE

    loss = privacy_loss_distribution.from_gaussian_mechanism(
        1.0 / strength, value_discretization_interval=COARSE, sampling_prob=rate
    ).self_compose(steps)
    epsilons = _grid(loss.get_epsilon_for_delta(1e-12))
    return Curve.from_profile(epsilons, np.asarray(loss.get_delta_for_epsilon(epsilons)))


def _grid(largest: float) -> np.ndarray:
    """Epsilons from 0 to the largest that matters."""
    top = min(WIDEST, largest) if math.isfinite(largest) else WIDEST
    return np.arange(0.0, top + SPACING, SPACING)
