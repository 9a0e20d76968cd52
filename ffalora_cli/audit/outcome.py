"""What an audit finds: tests of the mechanism, and lower bounds on epsilon."""

from __future__ import annotations

from dataclasses import dataclass


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
            (``verdict.judge``), so that many of them raise no more false alarms than one.
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
    return Check(name, float(wrong), 0.0, None, wrong == 0, text)


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
