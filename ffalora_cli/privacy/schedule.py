"""Computes how many rounds a client may take part in: planned, and within the budget."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def planned_rounds(rounds: int, share: float) -> int:
    """Upper plan of the rounds one client takes part in: mean + 4 sd, at most all of them.

    The K local steps of a round share one coin, so participation does not amplify per step; the
    plan bounds the count and the runner keeps to it.
    """
    spread = 4.0 * math.sqrt(rounds * share * (1.0 - share))
    return min(rounds, math.ceil(share * rounds + spread))


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
    while beyond - within > 1:
        middle = (within + beyond) // 2
        if epsilon(middle) <= target:
            within = middle
        else:
            beyond = middle
    return within
