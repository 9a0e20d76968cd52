"""Turns what an observer saw of every canary into bounds on epsilon.

The observer knows the claim and uses it: a canary's score is the likelihood ratio of "in" against
"out" under the claimed mechanism, and how many coins are guessed is what that mechanism makes
best. Neither can make a bound invalid: they were fixed before the coins were looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from ffalora_cli.audit.canary import bounds
from ffalora_cli.audit.canary.tradeoff import GaussianFamily, SubsampledFamily, gaussian_mu
from ffalora_cli.audit.outcome import Bound

SHARES = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.3, 0.4, 0.6, 0.8)  # of coins guessed
FARTHEST = 60.0  # noise sds: what lies beyond is surely in, and its exponential would overflow


@dataclass(frozen=True)
class Claim:
    """What a client's steps are said to cost; the canaries are rows like any other."""

    noise_multiplier: float
    sample_rate: float
    steps: int
    delta: float

    @property
    def family(self) -> SubsampledFamily:
        """The claimed mechanism among those with less or more noise."""
        return SubsampledFamily(1.0 / self.noise_multiplier, self.sample_rate, self.steps)


@dataclass(frozen=True)
class Sight:
    """One observation of one canary: ``Binomial(draws, rate) + noise_sd * N(0, 1)`` when it is in.

    In units of one clipped canary; when it is out there is only the noise.

    Attributes:
        rate: of the sampler.
        draws: steps behind one observation.
        noise_sd: of one observation.
        observations: of every canary in the whole audit.
    """

    rate: float
    draws: int
    noise_sd: float
    observations: int

    def ratio(self, seen: np.ndarray) -> np.ndarray:
        """Log likelihood ratio of "in" against "out" ``[...]`` for observations ``[...]``."""
        variance = self.noise_sd**2
        x = np.clip(np.nan_to_num(seen), -FARTHEST * self.noise_sd, FARTHEST * self.noise_sd)
        if self.draws == 1:
            return np.log1p(self.rate * np.expm1((x - 0.5) / variance))
        taken = np.arange(self.draws + 1)
        weights = stats.binom.pmf(taken, self.draws, self.rate)
        taken, weights = taken[weights > 1e-12], weights[weights > 1e-12]
        exponents = (taken * x[..., None] - taken**2 / 2) / variance
        return special.logsumexp(exponents, axis=-1, b=weights)

    def moments(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Mean and sd of a canary's whole score: when it is in, when it is out."""
        reach = 10 * self.noise_sd
        x = np.linspace(-reach, self.draws + reach, 8001)
        ratio = self.ratio(x)
        taken = np.arange(self.draws + 1)
        weights = stats.binom.pmf(taken, self.draws, self.rate)
        out = stats.norm.pdf(x, scale=self.noise_sd)
        densities = (weights @ stats.norm.pdf(x, taken[:, None], self.noise_sd), out)
        found = []
        for density in densities:
            mass = density / density.sum()
            mean = float(mass @ ratio)
            spread = float(np.sqrt(mass @ (ratio - mean) ** 2))
            found.append((self.observations * mean, float(self.observations**0.5) * spread))
        return found[0], found[1]


@dataclass(frozen=True)
class GuessPlan:
    """Fixed before the coins are looked at."""

    one_run: int  # coins guessed, half of them "in"
    tradeoff: int
    threshold: float  # of the score, for the two error rates


def plan_guesses(sight: Sight, canaries: int, claim: Claim) -> GuessPlan:
    """How many coins to guess so that the claimed mechanism would give the largest bounds.

    Scores are sums over many observations and taken as Gaussian here. A Gaussian family stands in
    for the claimed one: it is nearly the same and has a closed form.
    """
    inside, outside = (stats.norm(mean, sd) for mean, sd in sight.moments())
    lowest, highest = outside.mean() - 12 * outside.std(), inside.mean() + 12 * inside.std()

    def level(share: float) -> float:
        """The score that this share of all canaries exceeds."""
        return float(
            optimize.brentq(lambda t: (inside.sf(t) + outside.sf(t)) / 2 - share, lowest, highest)
        )

    def right(guesses: int) -> int:
        share = guesses / canaries / 2
        found = inside.sf(level(share)) + outside.cdf(level(1 - share))
        return min(guesses, int(canaries * found / 2))

    epsilon = claim.family.epsilon(claim.family.claimed, claim.delta)
    family = GaussianFamily(gaussian_mu(epsilon, claim.delta))
    counts = [max(2, 2 * round(share * canaries / 2)) for share in SHARES]

    def best(bound: Callable[[int, int], float]) -> int:
        return max(counts, key=lambda guesses: bound(guesses, right(guesses)))

    half = canaries // 2
    thresholds = [level(share) for share in (*SHARES, *(1 - s for s in SHARES))]
    return GuessPlan(
        best(lambda g, v: bounds.one_run(canaries, g, v, claim.delta)),
        best(lambda g, v: bounds.one_run_tradeoff(canaries, g, v, claim.delta, family)),
        max(
            thresholds,
            key=lambda t: bounds.clopper_pearson(
                (half, round(half * inside.cdf(t))),
                (half, round(half * outside.sf(t))),
                claim.delta,
            ),
        ),
    )


def measure(
    scores: np.ndarray, included: np.ndarray, plan: GuessPlan, claim: Claim, observer: str
) -> list[Bound]:
    """Bounds from the scores of one run.

    Args:
        scores: of every canary, larger means more likely in ``[canaries]``.
        included: the coins, bool ``[canaries]``.
        plan: made before.
        claim: its ``delta`` and its family.
        observer: what the scores were computed from.
    """
    canaries, delta = len(scores), claim.delta
    order = np.argsort(scores, kind="stable")

    def right(guesses: int) -> int:
        half = guesses // 2
        return int(included[order[canaries - half :]].sum() + (~included[order[:half]]).sum())

    def bound(name: str, value: float, rigorous: bool, text: str) -> Bound:
        return Bound(name, value, bounds.CONFIDENCE, rigorous, observer, text)

    one, several = (right(guesses) for guesses in (plan.one_run, plan.tradeoff))
    inside, outside = scores[included], scores[~included]
    missed, false = int((inside <= plan.threshold).sum()), int((outside > plan.threshold).sum())
    in_family = bounds.one_run_tradeoff(canaries, plan.tradeoff, several, delta, claim.family)
    errors = bounds.clopper_pearson((len(inside), missed), (len(outside), false), delta)
    return [
        bound(
            "one-run",
            bounds.one_run(canaries, plan.one_run, one, delta),
            True,
            f"{one} of {plan.one_run} guesses right, {canaries} canaries (arXiv 2305.08846)",
        ),
        bound(
            "one-run f-DP",
            in_family,
            True,
            f"{several} of {plan.tradeoff} guesses right, {canaries} canaries; rejects whole "
            "trade-off curves of the claimed family (arXiv 2410.22235)",
        ),
        bound(
            "Clopper-Pearson",
            errors,
            False,
            f"missed {missed} of {len(inside)}, false alarms {false} of {len(outside)}; supposes "
            "independent canaries",
        ),
        bound(
            "Gaussian fit",
            bounds.gaussian_fit(inside, outside, delta),
            False,
            "heuristic: supposes Gaussian scores",
        ),
    ]
