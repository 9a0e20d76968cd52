"""Draws clients that do not answer, or too late: functions of (seed, round, client).

A client that drops out computes nothing, is sent nothing and pays nothing. A straggler computes and
sends, too late: its upload is discarded and its privacy is spent all the same. Both are drawn on
their own, so an amplified epsilon stays valid: nobody takes part more often than planned.
"""

from __future__ import annotations

import numpy as np

from ffalora_cli.keys import derive, numpy_generator


def absent(seed: int, round: int, clients: np.ndarray, rate: float) -> np.ndarray:
    """Which of ``clients`` (ids ``[cohort]``) drop out this round, bool ``[cohort]``."""
    return _drawn("absent", seed, round, clients, rate)


def late(seed: int, round: int, clients: np.ndarray, rate: float) -> np.ndarray:
    """Which of ``clients`` (ids ``[cohort]``) answer after the round, bool ``[cohort]``."""
    return _drawn("late", seed, round, clients, rate)


def _drawn(purpose: str, seed: int, round: int, clients: np.ndarray, rate: float) -> np.ndarray:
    """A client's draw is its own place in the round's stream: who else is asked does not matter."""
    if rate == 0.0 or not len(clients):
        return np.zeros(len(clients), dtype=bool)
    draws = numpy_generator(derive(seed, purpose, round)).random(int(clients.max()) + 1)
    hit: np.ndarray = draws[clients] < rate
    return hit
