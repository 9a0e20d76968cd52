"""Computes lower bounds on epsilon from guesses about canaries; numpy and scipy only.

The game of one-run auditing: ``canaries`` records are put in or left out by fair coins, the
mechanism runs once, and the observer guesses some coins (how many is fixed beforehand). If the
mechanism is private it cannot be right too often. A bound is the largest epsilon that the guesses
contradict at the given confidence; it is a lower limit of the true epsilon, never an estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from ffalora_cli.audit.canary.tradeoff import Curve, Family, gaussian_epsilon

CONFIDENCE = 0.95  # 1 - probability that a bound is too large
LARGEST = 50.0  # no bound beyond this epsilon is looked for
TOLERANCE = 1e-3  # of epsilon
STEP = 0.005  # of a family's strength, relative


def one_run(
    canaries: int, guesses: int, correct: int, delta: float, confidence: float = CONFIDENCE
) -> float:
    """Largest epsilon that one run's guesses reject, for any (epsilon, delta)-DP mechanism.

    Steinke, Nasr, Jagielski: Privacy Auditing with One (1) Training Run, NeurIPS 2023, arXiv
    2305.08846, Theorem 5.2: for ``W ~ Binomial(guesses, e^epsilon / (1 + e^epsilon))``,
    ``P[correct >= v] <= P[W >= v] + 2 canaries delta max_i P[v - i <= W < v] / i``.

    Args:
        canaries: records with a coin.
        guesses: coins guessed, fixed beforehand.
        correct: of the guesses.
        delta: of the claim.
        confidence: 1 - probability that the bound is too large.

    Returns:
        Epsilon; 0 when nothing is rejected.
    """
    _check_counts(canaries, guesses, correct)

    def rejected(epsilon: float) -> bool:
        right = 1.0 / (1.0 + math.exp(-epsilon))
        tail = float(stats.binom.sf(correct - 1, guesses, right))
        below = stats.binom.cdf(np.arange(-1, correct), guesses, right)  # P[W <= -1 .. v - 1]
        reach = np.arange(1, correct + 1)
        extra = ((below[-1] - below[-2::-1]) / reach).max() if correct and delta else 0.0
        return tail + 2 * canaries * delta * float(extra) < 1.0 - confidence

    return _largest(rejected, LARGEST)


def one_run_tradeoff(
    canaries: int,
    guesses: int,
    correct: int,
    delta: float,
    family: Family,
    confidence: float = CONFIDENCE,
) -> float:
    """Largest epsilon at ``delta`` within a family of trade-off curves that the guesses reject.

    Mahloujifar, Melis, Chaudhuri: Auditing f-Differential Privacy in One Run, arXiv 2410.22235;
    see ``contradicts``. What is rejected is a whole curve, so the bound supposes that the privacy
    profile has the family's shape; it does not suppose anything about the observer.

    Args:
        canaries: records with a coin.
        guesses: coins guessed, fixed beforehand.
        correct: of the guesses.
        delta: at which the rejected curve's epsilon is read.
        family: curves ordered by a number: larger is less private.
        confidence: 1 - probability that the bound is too large.
    """
    _check_counts(canaries, guesses, correct)

    def rejected(strength: float) -> bool:
        return contradicts(family.curve(strength), canaries, guesses, correct, confidence)

    low = high = family.claimed
    while rejected(high) and family.epsilon(high, delta) < LARGEST:
        low, high = high, high * 1.25
    if low == high:
        low = family.claimed / 32
    if not rejected(low):
        return 0.0
    while high / low > 1.0 + STEP:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return family.epsilon(low, delta)


def contradicts(curve: Curve, canaries: int, guesses: int, correct: int, confidence: float) -> bool:
    """Whether ``correct`` or more right guesses have probability < 1 - confidence under a curve.

    Let ``p_i`` be the probability of exactly i right guesses. Turning canary j's coin makes "j
    right and at least i right" into "j wrong and at least i - 1 right". Averaged over canaries and
    coins (F is concave) this gives, for every i,
    ``sum_{k >= i} k p_k / m <= F(sum_{k >= i-1} (guesses - k) p_k / m)``, where F(x) is the largest
    probability of an event that has probability x on the neighbour. Beginning with a tail of
    1 - confidence, all of it at ``correct`` (the easiest case), the inequalities force a least
    ``p_i`` for every smaller i. If these add up to more than one, there is no such distribution.
    """
    tail = 1.0 - confidence
    right = tail * correct / canaries  # sum over k >= i of k p_k / m
    wrong = tail * (guesses - correct) / canaries  # sum over k >= i of (guesses - k) p_k / m
    most = guesses / canaries
    slopes, intercepts = curve.slopes, curve.intercepts
    at = 0  # the line that says most about ``right``; it moves up as ``right`` grows
    for i in range(correct - 1, -1, -1):  # from sums over k >= i + 1 to sums over k >= i
        needed = slopes[at] * right + intercepts[at]
        while at + 1 < len(slopes) and slopes[at + 1] * right + intercepts[at + 1] >= needed:
            at += 1
            needed = slopes[at] * right + intercepts[at]
        if needed > wrong:
            right += (needed - wrong) * i / (guesses - i)
            wrong = needed
        if right + wrong > most:
            return True
    return False


def clopper_pearson(
    inside: tuple[int, int], outside: tuple[int, int], delta: float, confidence: float = CONFIDENCE
) -> float:
    """Epsilon from the two error rates of a threshold fixed beforehand, exact binomial limits.

    The two limits share the error, so that both hold at once. It supposes that canaries do not
    influence each other's outcome, which the mechanism under audit could violate.

    Args:
        inside: (canaries that were in, of them below the threshold).
        outside: (canaries that were out, of them above the threshold).
        delta: of the claim.
        confidence: of both limits together.
    """
    missed, false = (
        float(stats.beta.ppf(1 - (1 - confidence) / 2, wrong + 1, total - wrong))
        if wrong < total
        else 1.0
        for total, wrong in (inside, outside)
    )
    ratios = [(1 - missed - delta) / false, (1 - false - delta) / missed]
    return max(0.0, math.log(max(max(ratios), 1.0)))


def gaussian_fit(
    inside: np.ndarray, outside: np.ndarray, delta: float, confidence: float = CONFIDENCE
) -> float:
    """Heuristic: epsilon if both kinds of scores were Gaussian with one spread.

    Not a bound: nothing makes the scores Gaussian. The distance between the means in units of the
    pooled spread, less its sampling error (Hedges and Olkin 1985, large samples), is read as
    Gaussian differential privacy.

    Args:
        inside: scores of canaries that were in ``[n]``.
        outside: scores of canaries that were out ``[n]``.
        delta: of the claim.
        confidence: one-sided, of the distance.
    """
    n, m = len(inside), len(outside)
    if min(n, m) < 2:
        return 0.0
    spread = math.sqrt((inside.var(ddof=1) * (n - 1) + outside.var(ddof=1) * (m - 1)) / (n + m - 2))
    if spread == 0.0:
        return 0.0 if inside.mean() <= outside.mean() else LARGEST
    distance = float(inside.mean() - outside.mean()) / spread
    error = math.sqrt((n + m) / (n * m) + distance**2 / (2 * (n + m)))
    distance -= float(stats.norm.ppf(confidence)) * error
    return gaussian_epsilon(distance, delta) if distance > 0 else 0.0


def _check_counts(canaries: int, guesses: int, correct: int) -> None:
    if not 0 <= correct <= guesses <= canaries or canaries < 1:
        raise ValueError(f"not a count of guesses: {correct} of {guesses} on {canaries} canaries")


def _largest(rejected: Callable[[float], bool], limit: float) -> float:
    """Largest rejected epsilon in [0, limit]; ``rejected`` is true up to it and false beyond."""
    low, high = 0.0, limit
    if not rejected(low):
        return 0.0
    if rejected(high):
        return high
    while high - low > TOLERANCE:
        middle = (low + high) / 2
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low
