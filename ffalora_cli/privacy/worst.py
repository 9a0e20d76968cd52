"""Finds the largest epsilon among units that are released by different sets of steps.

A text on several clients, or a row in several runs, is released by each of them: its epsilon is
that of all its steps composed, at one delta, never a sum of epsilons. Which unit is worst is not
known before composing; a quick upper bound (RDP) puts them in order, and one whose bound is not
above the largest value found need not be composed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ffalora_cli.privacy.accountants import FINE, epsilon, epsilon_of_renyi, library, renyi
from ffalora_cli.privacy.disk_cache import load, store
from ffalora_cli.privacy.sampling import History

Steps = tuple[tuple[float, float, int], ...]  # (noise_multiplier, sample_rate, steps), merged


def merged(history: History) -> Steps:
    """Equal steps added up, in order, without empty ones: two clients alike are one history."""
    counts: dict[tuple[float, float], int] = {}
    for noise, rate, steps in history:
        if steps:
            counts[noise, rate] = counts.get((noise, rate), 0) + int(steps)
    return tuple(sorted((noise, rate, steps) for (noise, rate), steps in counts.items()))


def worst_epsilon(
    accountant: str,
    sampling: str,
    histories: Iterable[History],
    delta: float,
    interval: float = FINE,
) -> float:
    """Largest epsilon of several histories, each composed exactly; 0 without any.

    Args:
        accountant: ``pld``, ``rdp`` or ``prv``.
        sampling: of all steps.
        histories: one a unit; equal ones cost nothing.
        delta: in (0, 1), of the composition.
        interval: grid width of PLD.
    """
    distinct = sorted({found for history in histories if (found := merged(history))})
    if sampling == "fixed" or len(distinct) == 1:
        return max(
            (_stored(accountant, sampling, h, delta, interval) for h in distinct), default=0.0
        )
    bounds = [epsilon("rdp", history, delta, sampling=sampling) for history in distinct]
    if accountant == "rdp":
        return max(bounds, default=0.0)
    largest = 0.0
    slack = 0.02 if accountant == "prv" else 0.0  # PRV states the upper end of its error
    for bound, history in sorted(zip(bounds, distinct, strict=True), reverse=True):
        if bound + slack <= largest:
            break
        largest = max(largest, _stored(accountant, sampling, history, delta, interval))
    return largest


def unmatched_epsilon(
    sampling: str, runs: Sequence[Sequence[tuple[float, float, int]]], delta: float
) -> float | None:
    """Bound for a unit that was on one client of each run, whichever they were (RDP).

    Args:
        sampling: of all steps; None is returned for ``fixed``.
        runs: steps of every client, one list a run.
        delta: in (0, 1), of the composition.
    """
    if sampling == "fixed":
        return None
    total: Any = 0.0
    for clients in runs:
        distinct = {found for steps in clients if (found := merged([steps]))}
        if distinct:  # at every order the client that loses most
            total = total + np.max([renyi(history, sampling) for history in distinct], axis=0)
    return epsilon_of_renyi(total, delta) if np.ndim(total) else 0.0


def _stored(
    accountant: str, sampling: str, history: Sequence[tuple[float, float, int]], delta: float,
    interval: float,
) -> float:  # fmt: skip
    question: dict[str, str | float | int | list[int]] = {
        "history": repr(history),
        "accountant": accountant,
        "sampling": sampling,
        "library": library(accountant, sampling),
        "delta": delta,
        "interval": interval,
    }
    known = load(question)
    if known is None:
        known = epsilon(accountant, history, delta, interval=interval, sampling=sampling)
        store(question, known)
    return known
