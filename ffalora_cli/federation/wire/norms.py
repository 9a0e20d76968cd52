"""Upload norm limit: an update longer than 10 times the usual norm is rejected.

The usual norm is the larger of the median over recent rounds and the median of this round's other
uploads, so a cohort that grows together passes. No such rule works when most clients are malicious.
One other upload is no yardstick: of two honest clients one may have learnt what the other has yet
to learn, so a second one is waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ffalora_cli.privacy.planning.plan import PrivacyPlan
from ffalora_cli.types import ServerState

FACTOR = 10.0  # times the usual norm
LEAST = 2  # uploads of others, or earlier rounds, before anything is called far
REMEMBERED = 50  # rounds


@dataclass(frozen=True)
class NormLimit:
    """The limit of one round.

    Attributes:
        fixed: ``federation.max_upload_norm``; None for ten times the usual.
        history: median norms of recent rounds.
        slack: factor by which each client's noise alone makes its update longer than the median
            client's, at least 1, float64 ``[num_clients]``; norms are divided by it first.
    """

    fixed: float | None
    history: Sequence[float]
    slack: np.ndarray

    def exceeded(self, norms: np.ndarray) -> np.ndarray:
        """Which finite ``norms`` (divided by the slack) are too long, bool ``[clients]``.

        Where fewer than ``LEAST`` others that moved, earlier rounds included, tell what is usual,
        nothing is said.
        """
        if self.fixed is not None:
            return norms > self.fixed
        past = float(np.median(self.history)) if self.history else 0.0
        usual = np.maximum(past, median_of_others(norms))
        moved = norms > 0
        known = len(self.history) + moved.sum() - moved  # [clients]
        return (known >= LEAST) & (usual > 0) & (norms > FACTOR * usual)


def median_of_others(values: np.ndarray) -> np.ndarray:
    """For each value the upper median of all the others, ``[n]``; zeros for fewer than two.

    The upper one, so that of three clients a very short update does not make the others look long.
    """
    count = len(values)
    if count < 2:
        return np.zeros(count)
    order = np.argsort(values, kind="stable")
    rank = np.empty(count, dtype=np.int64)
    rank[order] = np.arange(count)
    middle = (count - 1) // 2  # among count - 1 values
    return np.where(rank > middle, values[order[middle]], values[order[middle + 1]])


def limit(
    fixed: float | None, plan: PrivacyPlan | None, state: ServerState, num_clients: int
) -> NormLimit | None:
    """The limit of the round after ``state``; None under client-level privacy, where a clip rules.

    (There, whether one client's upload counts must not depend on the others'.)
    """
    if plan is not None and plan.unit == "client":
        return None
    slack = noise_slack(plan, num_clients) if fixed is None else np.ones(num_clients)
    return NormLimit(fixed, state.upload_norms, slack)


def noise_slack(plan: PrivacyPlan | None, num_clients: int) -> np.ndarray:
    """How much longer noise makes each client's update than the median client's, at least 1.

    Under example-level privacy a client with few rows draws more noise and divides it by a smaller
    batch: its honest update may be a hundred times the usual. The server knows, it made the plan.
    """
    if plan is None or not plan.inside_clients:
        return np.ones(num_clients)
    noise = plan.added_noise / plan.expected_batch
    return np.maximum(1.0, noise / np.median(noise))


def remember(history: Sequence[float], norms: np.ndarray) -> tuple[float, ...]:
    """The history after a round's accepted ``norms``, unless nothing moved."""
    moved = norms[norms > 0]
    if not len(moved):
        return tuple(history)
    return (*history, float(np.median(moved)))[-REMEMBERED:]
