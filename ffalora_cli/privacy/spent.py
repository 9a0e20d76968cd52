"""Epsilon spent so far, cheap enough to read every round.

Exact values cost 0.1 to 1 s a client with PLD, so on the way a client is reported at the next point
up of a fixed list of rounds (all of them up to 32, else about 48, denser early, where epsilon grows
fast), on the coarse grid of losses, and never above its planned epsilon: an upper bound each time.
The planned end, steps beyond the plan, and every RDP value are exact.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ffalora_cli.privacy.accountants import COARSE, FINE
from ffalora_cli.privacy.calibrate import epsilon_of
from ffalora_cli.privacy.plan import Floats, Ints, PrivacyPlan

EVERY_ROUND = 32  # up to so many planned rounds, each is a point
POINTS = {"pld": 48, "prv": 8}  # beyond; PRV takes about a second a point
LOOSE = 1.01  # the coarse grid is used where it costs less than this at the planned end


def spent(plan: PrivacyPlan, steps_taken: Ints, *, exact: bool = False) -> Floats:
    """Epsilon of each client after the steps it was charged for.

    Args:
        plan: of the run.
        steps_taken: ``[num_clients]``; local steps at unit ``example``, rounds at unit ``client``.
        exact: compute every value at its own step (up to 1 s a distinct client).

    Returns:
        ``[num_clients]`` at the plan's delta and accountant; between points of the list an upper
        bound, else exact. Never decreases with steps.
    """
    columns = (
        plan.noise_multiplier,
        plan.accounted_rate,
        plan.planned_rounds,
        np.asarray(steps_taken),
        plan.epsilon_planned,
    )
    rows = np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)
    distinct, where = np.unique(rows, axis=0, return_inverse=True)
    values = [
        _one(plan, noise, rate, int(rounds), int(steps), planned, exact)
        for noise, rate, rounds, steps, planned in distinct.tolist()
    ]
    return np.asarray(values, dtype=np.float64)[where.reshape(-1)]


def _one(
    plan: PrivacyPlan,
    noise: float,
    rate: float,
    rounds: int,
    steps: int,
    planned: float,
    exact: bool,
) -> float:
    end = rounds * plan.steps_per_round
    if steps == 0:
        return 0.0
    if steps == end:
        return planned
    if exact or plan.accountant == "rdp" or steps > end:
        return epsilon_of(plan.accountant, noise, rate, steps, plan.delta)
    points = round_points(rounds, POINTS[plan.accountant]) * plan.steps_per_round
    point = int(points[np.searchsorted(points, steps)])
    if point == end:
        return planned
    interval = FINE
    if plan.accountant == "pld":
        coarse_end = epsilon_of("pld", noise, rate, end, plan.delta, COARSE)
        interval = COARSE if coarse_end <= LOOSE * planned else FINE
    return min(planned, epsilon_of(plan.accountant, noise, rate, point, plan.delta, interval))


@lru_cache(maxsize=64)
def round_points(rounds: int, points: int) -> npt.NDArray[np.int64]:
    """Rounds at which epsilon is computed, increasing, the last included.

    Quadratic spacing: epsilon grows about as the square root of the steps, so the points are about
    equally far apart in epsilon.
    """
    if rounds <= EVERY_ROUND:
        return np.arange(1, rounds + 1)
    share = np.arange(1, points + 1) / points
    return np.unique(np.array([math.ceil(rounds * s * s) for s in share], dtype=np.int64))
