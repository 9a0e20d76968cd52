"""What an audit finds: tests of the mechanism, lower bounds on epsilon, and a verdict on them.

Many random checks are judged together, at one stated level of false alarms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

LEVEL = 1e-4  # of a whole audit: probability that any random check of a clean mechanism fails


@dataclass(frozen=True)
class Check:
    """One test of the mechanism as implemented.

    Attributes:
        name: what is tested, unique within an audit, e.g. ``noise sd per tensor``.
        statistic: what was found, in the unit that ``text`` names.
        limit: largest statistic that passes (for a random one: at which its p-value is rejected).
        p_value: of a clean mechanism being at least as far off, corrected for everything that was
            looked at within the check; None for a check that leaves nothing to chance.
        passed: within the limit. Checks with a p-value are judged together afterwards
            (``judge``), so that many of them raise no more false alarms than one.
        text: the finding in a few words, with its unit.
    """

    name: str
    statistic: float
    limit: float
    p_value: float | None
    passed: bool
    text: str


def exact(name: str, wrong: int, text: str) -> Check:
    """A check that leaves nothing to chance: it passes with nothing wrong."""
    return within(name, float(wrong), 0.0, text)


def within(name: str, found: float, limit: float, text: str) -> Check:
    """A check that leaves nothing to chance: it passes up to its limit, and a NaN fails."""
    return Check(name, float(found), float(limit), None, bool(found <= limit), text)


def normal(name: str, z: npt.ArrayLike, text: str) -> Check:
    """A check of several standard normal values, to be judged; ``{}`` in its text says how far."""
    largest = float(np.abs(z).max())
    limit, p_value = furthest(np.size(z)), far(z)
    return Check(name, largest, limit, p_value, True, text.format(f"{largest:.1f} sd at most"))


@dataclass(frozen=True)
class Bound:
    """An empirical lower bound on epsilon, at the delta of the claim.

    Attributes:
        name: the method, e.g. ``one-run``.
        epsilon_lower: the mechanism's epsilon is at least this.
        confidence: probability with which that holds.
        rigorous: False for a heuristic; a heuristic never fails an audit.
        observer: what the observer sees, e.g. ``every step`` or ``round upload``.
        text: how it was made, in a few words.
    """

    name: str
    epsilon_lower: float
    confidence: float
    rigorous: bool
    observer: str
    text: str


def together(p_values: npt.ArrayLike) -> float:
    """p-value of the smallest of several (Bonferroni); 1 for none."""
    found = np.atleast_1d(np.asarray(p_values, dtype=np.float64))
    return float(min(1.0, len(found) * found.min())) if len(found) else 1.0


def far(z: npt.ArrayLike) -> float:
    """p-value of the largest of several standard normal values, two-sided (Bonferroni)."""
    return together(2.0 * norm.sf(np.abs(np.asarray(z, dtype=np.float64))))


def furthest(count: int) -> float:
    """The largest of ``count`` standard normal values is beyond this with probability LEVEL."""
    return float(norm.isf(LEVEL / 2 / max(count, 1)))


def judge(checks: Sequence[Check]) -> list[Check]:
    """Checks with ``passed`` settled: those with a p-value by Holm's step-down at LEVEL.

    Holm (1979): with the p-values in order, the i-th of m (from 0) is rejected when it and all
    before it are at most LEVEL / (m - i). The chance of any false rejection is at most LEVEL.
    """
    random = sorted(
        (i for i, check in enumerate(checks) if check.p_value is not None),
        key=lambda i: checks[i].p_value or 0.0,
    )
    judged = list(checks)
    rejecting = True
    for rank, index in enumerate(random):
        p_value = checks[index].p_value
        rejecting &= p_value is not None and p_value <= LEVEL / (len(random) - rank)
        judged[index] = replace(checks[index], passed=not rejecting)
    return judged


@dataclass(frozen=True)
class Verdict:
    """What an audit comes to.

    Attributes:
        claim: epsilon of the client with the largest, at ``delta``.
        delta: of the claim.
        checks: judged.
        bounds: empirical lower bounds.
    """

    claim: float
    delta: float
    checks: tuple[Check, ...]
    bounds: tuple[Bound, ...]

    @property
    def failures(self) -> list[str]:
        """Names of the checks that failed and of the rigorous bounds above the claim."""
        failed = [check.name for check in self.checks if not check.passed]
        return failed + [
            f"{bound.name} ({bound.observer})"
            for bound in self.bounds
            if bound.rigorous and bound.epsilon_lower > self.claim
        ]

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the claim; that is not a proof of it."""
        return not self.failures
