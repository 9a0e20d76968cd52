"""Computes how many rounds a client may take part in: planned, and within the budget."""

from __future__ import annotations

import math

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
