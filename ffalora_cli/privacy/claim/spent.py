"""Reads epsilon spent so far from the plan's curves, every round.

Exact values cost 0.1 to 1 s a client with PLD, so on the way a client is reported at the next point
up of its curve: an upper bound each time. The planned end, steps beyond the plan, and every RDP
value of Poisson batches are exact.
"""

from __future__ import annotations

import numpy as np

from ffalora_cli.privacy.planning.plan import PrivacyPlan
from ffalora_cli.types import Floats, Ints


def spent(plan: PrivacyPlan, steps_taken: Ints, *, exact: bool = False) -> Floats:
    """Epsilon of each client after the steps it was charged for.

    Args:
        plan: of the run.
        steps_taken: ``[num_clients]``; local steps inside a client, rounds at unit ``client``.
        exact: compute every value at its own step (up to 1 s a distinct client).

    Returns:
        ``[num_clients]`` at the plan's delta and accountant; between points of the curve an upper
        bound, else exact. Never decreases with steps.
    """
    steps = np.asarray(steps_taken, dtype=np.int64)
    found = plan.curves.at(steps)
    off_plan = steps > plan.planned_steps
    accountant = plan.accountant
    if exact or (accountant.name == "rdp" and accountant.sampling == "poisson"):
        off_plan = steps != plan.planned_steps
    clients = np.flatnonzero(off_plan & (steps > 0))
    if len(clients):
        columns = (plan.noise_multiplier, plan.accounted_rate, steps)
        rows = np.stack([column[clients] for column in columns], axis=1)
        distinct, where = np.unique(rows, axis=0, return_inverse=True)
        values = [
            accountant.epsilon([(noise, rate, int(count))])
            for noise, rate, count in distinct.tolist()
        ]
        found[clients] = np.asarray(values)[where.reshape(-1)]
    return found


def claimed(
    plan: PrivacyPlan, steps_taken: Ints, epsilons: Floats, *, exact: bool = False
) -> float:
    """Epsilon of the worst unit: of the worst client, or of all clients that hold the unit.

    Args:
        plan: of the run.
        steps_taken: ``[num_clients]``.
        epsilons: of each client, from ``spent`` ``[num_clients]``.
        exact: at these very steps; else, as ``spent``, at the next points up of the curves.
    """
    largest = float(epsilons.max())
    if not plan.shared:
        return largest
    steps = np.asarray(steps_taken, dtype=np.int64)
    if exact or bool((steps == plan.planned_steps).all()):
        return max(largest, plan.joint_epsilon(steps))
    joint = plan.joint_epsilon(plan.curves.up(steps), coarse=True)
    if bool((steps <= plan.planned_steps).all()):
        joint = min(joint, plan.epsilon_claimed)
    return max(largest, joint)
