"""Epsilon by steps of every client, made with the plan, so that a round only looks it up.

A curve has a value for all rounds up to 32, else for about 48 of them, denser early, where epsilon
grows fast; between two of them the next one up is an upper bound. Values on the way are computed on
the coarse grid of losses where that costs less than a percent, and never exceed the planned end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.privacy.accounting.accountants import COARSE, FINE
from ffalora_cli.privacy.accounting.composition import trajectory
from ffalora_cli.privacy.accounting.disk_cache import answered
from ffalora_cli.types import Floats, Ints

EVERY_ROUND = 32  # up to so many planned rounds, each is a point
POINTS, SLOW_POINTS = 48, 8  # beyond; a point of PRV or of fixed-size sampling takes up to a second
LOOSE = 1.01  # the coarse grid is used where it costs less than this at the planned end


@dataclass(frozen=True, eq=False)
class Curves:
    """Epsilon after some numbers of steps, one row a distinct mechanism."""

    steps: Ints  # increasing, the last one repeated to fill a row ``[mechanisms, points]``
    epsilon: Floats  # at those steps ``[mechanisms, points]``
    row: Ints  # of each client ``[num_clients]``

    def at(self, steps_taken: Ints) -> Floats:
        """Epsilon at the next point up ``[num_clients]``; ``inf`` beyond a curve's end."""
        values = self.epsilon[self.row, self._point(steps_taken)]
        values = np.where(steps_taken > self.steps[self.row, -1], math.inf, values)
        return np.where(steps_taken == 0, 0.0, values)

    def up(self, steps_taken: Ints) -> Ints:
        """Steps of the next point up ``[num_clients]``; as they are beyond a curve's end."""
        found = self.steps[self.row, self._point(steps_taken)]
        return np.where(steps_taken == 0, 0, np.maximum(found, steps_taken))

    def _point(self, steps_taken: Ints) -> Ints:
        """Index of the next point up ``[num_clients]``; the last one beyond the end."""
        width = self.steps.shape[1]
        stride = int(self.steps.max(initial=0)) + 1
        taken = np.minimum(steps_taken, stride - 1)
        flat = (self.steps + np.arange(len(self.steps))[:, None] * stride).ravel()
        found = np.searchsorted(flat, taken + self.row * stride) - self.row * width
        return np.minimum(found, width - 1)


def make_curves(
    accountant: Accountant, steps_per_round: int, mechanisms: Floats, row: Ints
) -> Curves:
    """A curve for every distinct mechanism.

    Args:
        accountant: of the plan.
        steps_per_round: steps a client takes in a round.
        mechanisms: columns noise multiplier, rate, planned rounds, planned epsilon
            ``[mechanisms, 4]``.
        row: mechanism of each client ``[num_clients]``.
    """
    quick = accountant.name == "pld" or (
        accountant.name == "rdp" and accountant.sampling != "fixed"
    )
    many = POINTS if quick else SLOW_POINTS
    rounds = [round_points(int(planned), many) for planned in mechanisms[:, 2]]
    width = max((len(points) for points in rounds), default=1) or 1
    steps = np.zeros((len(rounds), width), dtype=np.int64)
    values = np.zeros((len(rounds), width))
    for i, points in enumerate(rounds):
        if len(points):
            noise, rate, _, end = mechanisms[i].tolist()
            taken = points * steps_per_round
            curve = _curve(replace(accountant, interval=FINE), noise, rate, taken, end)
            steps[i] = np.pad(taken, (0, width - len(taken)), mode="edge")
            values[i] = np.pad(curve, (0, width - len(curve)), mode="edge")
    return Curves(steps, values, row)


@lru_cache(maxsize=64)
def round_points(rounds: int, points: int) -> Ints:
    """Rounds at which epsilon is computed, increasing, the last included.

    Quadratic spacing: epsilon grows about as the square root of the steps, so the points are about
    equally far apart in epsilon.
    """
    if rounds <= EVERY_ROUND:
        return np.arange(1, rounds + 1)
    share = np.arange(1, points + 1) / points
    return np.unique(np.array([math.ceil(rounds * s * s) for s in share], dtype=np.int64))


def _curve(accountant: Accountant, noise: float, rate: float, steps: Ints, end: float) -> Floats:
    """Epsilon at ``steps [points]``, never above the planned ``end``; kept on disk."""
    question = accountant.question() | {
        "curve": [int(step) for step in steps],
        "noise_multiplier": noise,
        "sample_rate": rate,
        "end": end,
    }

    def answer() -> list[float]:
        if accountant.name == "pld" and accountant.sampling == "poisson":
            found = trajectory(noise, rate, steps, accountant.delta, COARSE)
            if not found[-1] <= LOOSE * end:
                found = trajectory(noise, rate, steps, accountant.delta, FINE)
        else:
            found = np.array([accountant.epsilon([(noise, rate, int(n))]) for n in steps])
        found = np.maximum.accumulate(np.minimum(found, end))
        found[-1] = end
        return list(found.tolist())

    return np.asarray(answered(question, answer), dtype=np.float64)
