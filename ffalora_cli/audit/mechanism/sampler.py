"""Checks that every unit is drawn independently at the rate accounted for, by one client alone.

The batches are those that the run's own simulation hands to its engine, over many steps; nobody
trains on them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import binom, chi2, norm, poisson

from ffalora_cli.audit.mechanism.draws import endless
from ffalora_cli.audit.mechanism.observe import Watched
from ffalora_cli.audit.mechanism.surrogate import Subject
from ffalora_cli.audit.outcome import Check, exact, furthest, normal, together, within
from ffalora_cli.data.partition import partition as partitions
from ffalora_cli.engine.job import StepBatches
from ffalora_cli.tasks import registry

STEPS = 500  # local steps of a round
TWINS = "no unit is on two clients"
TWIN_SIZES, TWIN_UNITS = (1, 1, 2, 5), 200  # rows of the units, in turn; units for each client
UNIT_ROWS = "a unit's rows are drawn together"
DIVISOR = "the divisor counts units"
LAGS = (1, 2, 3, 4, 5, STEPS)  # batches apart that are compared


@dataclass(frozen=True)
class Inclusions:
    """Which units each batch of one client had (rows, where each is its own).

    Attributes:
        rows: n of the client.
        rate: planned.
        step: int64 ``[inclusions]``, ascending.
        row: int64 ``[inclusions]``, number of the unit, ascending within a step.
        steps: number of batches.
        torn: drawn units that did not come with all their rows.
        divisor: what the engine divides sums by.
    """

    rows: int
    rate: float
    step: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    steps: int
    torn: int = 0
    divisor: float = 0.0

    @property
    def trials(self) -> int:
        """Row draws, made or not."""
        return self.rows * self.steps

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Rows of each batch ``[steps]``."""
        return np.bincount(self.step, minlength=self.steps)


def draw_batches(subject: Subject, inclusions: int) -> list[Inclusions]:
    """Batches of every client, until the smallest expected one has had so many rows in total."""
    plan = subject.plan
    simulation = subject.simulation(endless(plan), local_steps=STEPS)
    watched = Watched(simulation, idle=True)
    rounds = max(2, int(np.ceil(inclusions / (STEPS * plan.expected_batch.min()))))
    batches: list[StepBatches] = []
    divisors = plan.expected_batch
    for round in range(1, rounds + 1):
        watched.play(round)
        job = watched.seen.pop().job
        batches += job.batches
        divisors = divisors if job.privacy is None else job.privacy.expected_batch
    step = np.repeat(np.arange(len(batches)), [len(pairs.rows) for pairs in batches])
    slot = np.concatenate([pairs.slots for pairs in batches])
    row = np.concatenate([pairs.rows for pairs in batches])
    first, found = simulation.clients.offsets, []
    for client in range(plan.num_clients):
        n, rate = int(plan.examples[client]), float(plan.sample_rate[client])
        at, index = step[slot == client], row[slot == client] - first[client]
        units, torn = simulation.clients.units_of(client), 0
        if units is not None:
            pairs, rows = np.unique(at * n + units[index], return_counts=True)
            at, index = pairs // n, pairs % n
            torn = int((rows != np.bincount(units)[index]).sum())
        found.append(Inclusions(n, rate, at, index, len(batches), torn, float(divisors[client])))
    return found


def sampler_checks(subject: Subject, drawn: list[Inclusions]) -> list[Check]:
    """The battery on batches, all clients in each check."""
    accounted = subject.plan.accounted_rate
    return [
        twins(subject),
        together_drawn(subject, drawn),
        divisors(drawn),
        rate(drawn, accounted),
        batch_sizes(drawn),
        row_counts(drawn),
        lags(drawn),
        neighbours(drawn),
        across_clients(drawn),
    ]


def twins(subject: Subject) -> Check:
    """Units that the partition put on several clients, where it promises to keep them together.

    ``natural`` leaves rows where they are, and units that are not what is kept together may be
    anywhere: there the claim is their composition.
    """
    config, clients = subject.config, subject.plan.num_clients
    unit, kept = config.privacy.unit, config.partition.keep_together
    if unit == "row" or kept == "row" or (unit == "text") != (kept == "text"):
        return exact(TWINS, 0, "not promised: units on several clients are composed in the claim")
    if config.partition.name == "natural":
        return exact(TWINS, 0, "the data says who holds what: composed in the claim")
    generator = np.random.default_rng(0)
    keys = np.repeat(np.arange(TWIN_UNITS * clients), np.resize(TWIN_SIZES, TWIN_UNITS * clients))
    keys = generator.permutation(keys).astype(np.uint64)
    number = max(len(registry.get(config.task.kind).strata_names(config.task)), 1)
    strata = generator.integers(0, number, len(keys))
    dealing = replace(config.partition, min_client_size=0)
    dealt = partitions.partition(dealing, strata, number, clients, None, keys)
    owner = np.repeat(np.arange(clients), dealt.sizes).astype(np.uint64)
    held = np.unique(np.stack([keys[dealt.rows], owner], axis=1), axis=0)
    several = len(held) - len(np.unique(keys))
    return exact(
        TWINS, several, f"{several} of {TWIN_UNITS * clients:,} units lie on several clients"
    )


def together_drawn(subject: Subject, drawn: list[Inclusions]) -> Check:
    """A drawn unit brings all its rows (with ``rows_per_unit`` fewer, which costs nothing)."""
    if subject.plan.rows_per_unit is not None:
        return exact(UNIT_ROWS, 0, f"at most {subject.plan.rows_per_unit} are used by choice")
    torn, total = sum(d.torn for d in drawn), sum(len(d.row) for d in drawn)
    return exact(UNIT_ROWS, torn, f"{torn} of {total:,} drawn units came without some of them")


def divisors(drawn: list[Inclusions]) -> Check:
    """The divisor is the expected number of drawn units, not of rows."""
    off = max(abs(d.rate * d.rows / d.divisor - 1.0) for d in drawn)
    return within(DIVISOR, off, 1e-9, f"off by {off:.1e} at most; {len(drawn)} clients")


def rate(drawn: list[Inclusions], accounted: npt.NDArray[np.float64]) -> Check:
    """Share of row draws that were inclusions: the planned rate, and at most the accounted one."""
    realised = np.array([len(d.row) / d.trials for d in drawn])
    planned = np.array([d.rate for d in drawn])
    low = [binom.cdf(len(d.row), d.trials, d.rate) for d in drawn]
    high = [binom.sf(len(d.row) - 1, d.trials, d.rate) for d in drawn]
    above = [binom.sf(len(d.row) - 1, d.trials, q) for d, q in zip(drawn, accounted, strict=True)]
    p_values = np.minimum(1.0, np.concatenate([2 * np.minimum(low, high), above]))
    off = realised / np.minimum(planned, accounted) - 1.0
    worst = int(np.abs(off).argmax())
    made = len(drawn[worst].row)
    limit = float(furthest(len(drawn)) / np.sqrt(made or 1))
    text = (
        f"{100 * off[worst]:+.2f} % of the rate accounted for at most "
        f"({made:,} of {drawn[worst].trials:,} row draws)"
    )
    return Check("sampling rate", float(abs(off[worst])), limit, together(p_values), True, text)


def batch_sizes(drawn: list[Inclusions]) -> Check:
    """Batch sizes are binomial: their variance is n q (1 - q)."""
    z = [_dispersion(d.sizes, d.rows, d.rate) for d in drawn]
    return _check("batch sizes are binomial", z, drawn, "their variance off by")


def row_counts(drawn: list[Inclusions]) -> Check:
    """How often each row came is binomial: no row is favoured, none is spread evenly."""
    z = [_dispersion(np.bincount(d.row, minlength=d.rows), d.steps, d.rate) for d in drawn]
    return _check("rows are drawn alike", z, drawn, "variance of their counts off by")


def lags(drawn: list[Inclusions]) -> Check:
    """Rows that batches some steps (or a round) apart share: each with probability q squared."""
    z = []
    for d in drawn:
        for lag in LAGS:
            here, there = d.step * d.rows + d.row, (d.step - lag) * d.rows + d.row
            common = len(np.intersect1d(here, there, assume_unique=True))
            z.append(_overlap(common, d.rows, d.steps - lag, d.steps - 2 * lag, d.rate))
    return _check("batches are independent", z, drawn, "rows common to two batches off by")


def neighbours(drawn: list[Inclusions]) -> Check:
    """Rows next to each other in one batch: each pair with probability q squared."""
    z = []
    for d in drawn:
        here, there = d.step * (d.rows + 1) + d.row, d.step * (d.rows + 1) + d.row + 1
        common = len(np.intersect1d(here, there, assume_unique=True))
        z.append(_overlap(common, d.steps, d.rows - 1, d.rows - 2, d.rate))
    return _check("rows are independent", z, drawn, "neighbours in one batch off by")


def across_clients(drawn: list[Inclusions]) -> Check:
    """Positions that two clients draw in the same step: with probability q1 q2 each."""
    z = []
    for i, a in enumerate(drawn):
        for b in drawn[i + 1 :]:
            width = min(a.rows, b.rows)
            one, other = (d.step[d.row < width] * width + d.row[d.row < width] for d in (a, b))
            common = len(np.intersect1d(one, other, assume_unique=True))
            together_rate = a.rate * b.rate
            mean = width * a.steps * together_rate
            z.append(_poisson_z(common, mean, 1.0 - together_rate))
    if not z:
        return exact("clients draw apart", 0, "only one client")
    return _check("clients draw apart", z, drawn, "common positions off by")


def _dispersion(counts: npt.NDArray[np.int64], trials: int, rate: float) -> float:
    """Normal score of the sum of squared deviations of binomial counts.

    The sum over the variance has the mean of a chi-squared with one degree of freedom a count and,
    by the binomial's kurtosis, slightly another variance; the degrees of freedom follow it.
    """
    variance = trials * rate * (1.0 - rate)
    if variance <= 0.0:
        return 0.0 if (counts == trials * rate).all() else np.inf
    index = float(((counts - trials * rate) ** 2).sum()) / variance
    excess = (1.0 - 6.0 * rate * (1.0 - rate)) / variance
    freedom = len(counts) * 2.0 / (2.0 + excess)
    scaled = index * freedom / len(counts)
    return _score(chi2.logcdf(scaled, freedom), chi2.logsf(scaled, freedom))


def _overlap(common: int, lines: int, pairs: int, chains: int, rate: float) -> float:
    """Normal score of a number of common inclusions.

    ``lines`` independent lines of ``pairs`` overlapping pairs each; the covariance of two pairs
    that share an inclusion, of which a line has ``chains``, is q^3 - q^4.
    """
    mean = lines * pairs * rate**2
    variance = pairs * (rate**2 - rate**4) + 2 * max(chains, 0) * (rate**3 - rate**4)
    return _poisson_z(common, mean, lines * variance / mean if mean > 0 else 1.0)


def _poisson_z(count: int, mean: float, dispersion: float) -> float:
    """Normal score of a count of rare events with variance ``dispersion * mean``."""
    if mean <= 0.0 or dispersion <= 0.0:
        return 0.0
    if mean > 1000.0:
        return float((count - mean) / np.sqrt(dispersion * mean))
    x, mu = count / dispersion, mean / dispersion
    return _score(poisson.logcdf(x, mu), poisson.logsf(np.ceil(x) - 1, mu))


def _score(below: float, above: float) -> float:
    """Normal score of a value with these log-probabilities of being at most, at least it."""
    score = norm.isf(max(np.exp(min(below, above)), 1e-300))
    return float(-score if below < above else score)


def _check(name: str, z: list[float], drawn: list[Inclusions], what: str) -> Check:
    return normal(name, z, f"{what} {{}}; {len(drawn)} clients, {drawn[0].steps:,} steps")
