"""One accountant: the library that bounds epsilon, at one delta, for one sampler.

``pld`` (dp-accounting; tight, an upper bound, the number we claim), ``rdp`` (Opacus; looser, the
one the paper's noise multipliers come from) or ``prv`` (Opacus; a cross-check, its upper end).
Relation: add or remove one unit; sampling: every unit drawn independently with ``sample_rate`` at
each step. A rate of one is the plain Gaussian mechanism. Other samplers have other bounds and
relations (``sampling.py``).

A history is made of steps ``(noise_multiplier, sample_rate, count)``, the noise in units of the
clip, on the *sum*; their order does not matter. The same question has the same bits as its answer,
computed, remembered by this process or read from the disk.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib.metadata import version
from typing import Any

import numpy as np

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.privacy.accounting.accountants import (
    COARSE,
    FINE,
    LIBRARIES,
    bound,
    check_accountant,
    epsilon_of_renyi,
    renyi,
)
from ffalora_cli.privacy.accounting.calibrate import TOLERANCE, calibrate
from ffalora_cli.privacy.accounting.composition import trajectory
from ffalora_cli.privacy.accounting.disk_cache import Question, answered
from ffalora_cli.privacy.accounting.sampling import History

Steps = tuple[tuple[float, float, int], ...]  # (noise_multiplier, sample_rate, steps), merged
_FEW = 16  # choices of clients that are composed one by one, about a second each


@dataclass(frozen=True)
class Accountant:
    """Who computes epsilon, and of what.

    Attributes:
        name: ``pld``, ``rdp`` or ``prv``.
        delta: in (0, 1).
        sampling: ``poisson`` (add/remove one), ``fixed`` (replace one; ``rdp`` only) or
            ``shuffled`` (zero out one, no amplification).
        interval: grid width of PLD; a coarser one is a looser upper bound.
    """

    name: str
    delta: float
    sampling: str = "poisson"
    interval: float = FINE

    @property
    def library(self) -> str:
        """Name and version of the library behind the bound, e.g. ``dp-accounting 0.6.0``."""
        check_accountant(self.name)
        name = "dp-accounting" if self.sampling == "fixed" else LIBRARIES[self.name]
        return f"{name} {version(name)}"

    @property
    def coarse(self) -> Accountant:
        """The same on a grid that is quicker and never gives less: for values on the way."""
        return replace(self, interval=COARSE)

    @property
    def beside(self) -> tuple[Accountant, ...]:
        """The accountants whose bounds are stated beside each other for this sampler."""
        names = ("rdp",) if self.sampling == "fixed" else ("pld", "rdp")
        return tuple(replace(self, name=name) for name in names)

    def epsilon(self, history: History) -> float:
        """Smallest epsilon the accountant proves for a history.

        Returns:
            Epsilon; ``inf`` without noise or where the accountant proves nothing.

        Raises:
            ConfigError: for an accountant that is unknown or refused, or PRV failing numerically.
        """
        return _epsilon(self, tuple(history))

    def stored(self, history: History) -> float:
        """``epsilon`` kept on disk: for values that every start of the same run needs."""
        return _stored(self, merged(history))

    def noise_for(self, epsilon_target: float, sample_rate: float, steps: int) -> float:
        """Smallest noise multiplier that keeps equal steps within a target epsilon.

        Args:
            epsilon_target: > 0.
            sample_rate: in (0, 1].
            steps: > 0.

        Returns:
            Noise sd in units of the clip; its epsilon is in [0.999, 1] times the target, never
            above. The same inputs and library version give the same bits, cached or not.

        Raises:
            ConfigError: where no noise in [0.2, 1e6] reaches the target; names the nearest that
                works.
        """
        return _noise(self, epsilon_target, sample_rate, steps)

    def rounds_within(
        self, epsilon_target: float, noise: float, rate: float, steps: int, most: int
    ) -> int:
        """Rounds of ``steps`` equal steps that a target affords, at most ``most``."""

        def after(accountant: Accountant, count: int) -> float:
            return accountant.epsilon([(noise, rate, count * steps)])

        exact, quick = partial(after, self), partial(after, self.coarse)
        return affordable_rounds(exact, quick, epsilon_target, most)

    def worst(self, histories: Iterable[History]) -> float:
        """Largest epsilon of several histories, each composed exactly; 0 without any.

        A text on several clients, or a row in several runs, is released by each of them: its
        epsilon is that of all its steps composed, at one delta, never a sum of epsilons. Which unit
        is worst is not known before composing; a quick upper bound (RDP) puts them in order, and
        one whose bound is not above the largest value found need not be composed.

        Args:
            histories: one a unit; equal ones cost nothing.
        """
        distinct = sorted({found for history in histories if (found := merged(history))})
        if self.sampling == "fixed" or len(distinct) == 1:
            return max((self.stored(history) for history in distinct), default=0.0)
        quick = replace(self, name="rdp")
        bounds = [quick.epsilon(history) for history in distinct]
        if self.name == "rdp":
            return max(bounds, default=0.0)
        largest = 0.0
        slack = 0.02 if self.name == "prv" else 0.0  # PRV states the upper end of its error
        for limit, history in sorted(zip(bounds, distinct, strict=True), reverse=True):
            if limit + slack <= largest:
                break
            largest = max(largest, self.stored(history))
        return largest

    def across(self, splits: Iterable[Iterable[History]]) -> tuple[float, str] | None:
        """Epsilon of a unit that was on one client of each split, whichever they were.

        Where such choices are few each is composed; else it is bounded by RDP, at every order by
        the client of a split that loses most.

        Args:
            splits: histories of the clients, one list for each way the rows were dealt.

        Returns:
            (epsilon, the accountant that bounds it); None where nothing does.
        """
        distinct = [{merged(history) for history in clients} for clients in splits]
        if math.prod(map(len, distinct)) <= _FEW:
            choices = itertools.product(*map(sorted, distinct))
            return self.worst([*itertools.chain(*each)] for each in choices), self.name
        if self.sampling == "fixed":
            return None
        total: Any = 0.0
        for clients in distinct:
            losses = [renyi(one, self.sampling) for one in clients if one]
            total = total + np.max(losses, axis=0) if losses else total
        return (epsilon_of_renyi(total, self.delta) if np.ndim(total) else 0.0), "rdp"

    def question(self) -> Question:
        """What a stored answer depends on, whatever was asked."""
        return {
            "accountant": self.name,
            "sampling": self.sampling,
            "library": self.library,
            "interval": float(self.interval),
            "delta": float(self.delta),
        }


def merged(history: History) -> Steps:
    """Equal steps added up, in order, without empty ones: two clients alike are one history."""
    counts: dict[tuple[float, float], int] = {}
    for noise, rate, steps in history:
        if steps:
            counts[noise, rate] = counts.get((noise, rate), 0) + int(steps)
    return tuple(sorted((noise, rate, steps) for (noise, rate), steps in counts.items()))


@lru_cache(maxsize=65536)
def _epsilon(accountant: Accountant, history: Steps) -> float:
    check_accountant(accountant.name)
    if not 0.0 < accountant.delta < 1.0:
        raise ConfigError(
            f"privacy.delta={accountant.delta!r} is not in (0, 1); set e.g. privacy.delta=1e-5"
        )
    value = bound(
        accountant.name, history, accountant.delta, accountant.interval, accountant.sampling
    )
    return max(0.0, value) if math.isfinite(value) else math.inf


@lru_cache(maxsize=65536)
def _stored(accountant: Accountant, history: Steps) -> float:
    if not history:
        return 0.0
    question = accountant.question() | {"history": repr(history)}
    return answered(question, lambda: accountant.epsilon(history))


@lru_cache(maxsize=65536)
def _noise(accountant: Accountant, target: float, rate: float, steps: int) -> float:
    question = accountant.question() | {"sample_rate": float(rate), "steps": int(steps)}
    question |= {"epsilon_target": float(target), "tolerance": TOLERANCE}

    def exact(noise: float) -> float:
        return accountant.epsilon([(noise, rate, steps)])

    def quick(width: float, noise: float) -> float:  # the library's PLD within 1e-7, and quicker
        return float(trajectory(noise, rate, [steps], accountant.delta, width)[0])

    widths = ((COARSE, 1e-3), (accountant.interval, TOLERANCE / 2))
    amplified = accountant.name != "rdp" and accountant.sampling == "poisson" and rate < 1.0
    quicker = [(partial(quick, width), near) for width, near in widths if amplified]
    # First guess from the Gaussian limit; within a factor of two where it matters.
    guess = max(0.5, 4.0 * rate * math.sqrt(steps) / target)
    return answered(question, lambda: calibrate(accountant.name, target, exact, quicker, guess))


def affordable_rounds(
    epsilon: Callable[[int], float], coarse: Callable[[int], float], target: float, most: int
) -> int:
    """The last round within a target: largest r <= ``most`` with ``epsilon(r) <= target``.

    Args:
        epsilon: after r rounds, non-decreasing; exact and slow.
        coarse: the same, quick and never smaller.
        target: epsilon not to pass.
        most: largest answer.

    Returns:
        Rounds; 0 when not even the first one is affordable.
    """
    if coarse(most) <= target:
        return most
    safe = _last(coarse, target, 0, most)  # within the target by the larger value, so by both
    step = 1
    while safe + step <= most and epsilon(safe + step) <= target:
        safe, step = safe + step, step * 2
    return _last(epsilon, target, safe, min(most, safe + step - 1) + 1)


def _last(epsilon: Callable[[int], float], target: float, within: int, beyond: int) -> int:
    """Largest r in [within, beyond) with ``epsilon(r) <= target``; ``within`` is taken for it."""
    return bisect_right(range(beyond), target, within + 1, key=epsilon) - 1
