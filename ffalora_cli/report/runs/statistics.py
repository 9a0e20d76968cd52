"""Computes spread over seeds: mean, standard deviation, Student's interval, paired differences."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Sample:
    """What several runs of one configuration say about a number.

    Attributes:
        count: of runs.
        mean: of their values; NaN without any.
        sd: with ``count - 1`` in the denominator; None for fewer than two.
        half_width: of the 95 % interval of the mean by Student's t; None for fewer than two.
    """

    count: int
    mean: float
    sd: float | None
    half_width: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the interval, or None where one run cannot give any."""
        if self.half_width is None:
            return None
        return self.mean - self.half_width, self.mean + self.half_width


@dataclass(frozen=True)
class Paired:
    """Differences between two configurations over the pairs that both have.

    Attributes:
        differences: their mean, spread and interval (one difference a pair).
        pairs: what was held equal in each pair, sorted as text.
        unpaired: values of either side that had no partner.
    """

    differences: Sample
    pairs: tuple[Hashable, ...]
    unpaired: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        ends = self.differences.interval
        return ends is not None and (ends[0] > 0 or ends[1] < 0)


def summarize(values: Sequence[float]) -> Sample:
    """Mean, spread and 95 % interval ``t_(0.975, n-1) sd / sqrt(n)`` of independent values.

    Args:
        values: finite.

    Raises:
        ValueError: for a value that is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError("a value is not finite")
    count = len(array)
    mean = float(array.mean()) if count else math.nan
    if count < 2:
        return Sample(count, mean, None, None)
    from scipy.special import stdtrit

    sd = float(array.std(ddof=1))
    student = float(stdtrit(count - 1, 0.5 + LEVEL / 2))
    return Sample(count, mean, sd, student * sd / math.sqrt(count))


def paired(ours: Mapping[Hashable, float], theirs: Mapping[Hashable, float]) -> Paired:
    """Ours minus theirs over common keys; the interval is that of the differences.

    Runs with one seed share clients, start and batches, so their difference varies less than
    either of them: the paired interval is the one to judge by.

    Args:
        ours: value by what is held equal within a pair (seed and split).
        theirs: the same of the baseline.
    """
    common = sorted(ours.keys() & theirs.keys(), key=str)
    differences = summarize([ours[key] - theirs[key] for key in common])
    return Paired(differences, tuple(common), len(ours) + len(theirs) - 2 * len(common))


def standings(
    samples: Sequence[Sample], values: Sequence[Mapping[Hashable, float]], higher: bool
) -> list[str]:
    """The best mean (``best``), and every row that it is not separable from (``tied``).

    Args:
        samples: one a row; rows without a value take no part.
        values: of each row, by what two rows hold equal in a pair.
        higher: whether more is better.

    Returns:
        One standing a row, empty where there is none. Of equal means the first is the best. No
        correction is made for how many rows are compared.
    """
    found = [""] * len(samples)
    rows = [row for row, sample in enumerate(samples) if sample.count]
    if len(rows) < 2:
        return found
    sign = 1.0 if higher else -1.0
    first = max(rows, key=lambda row: (sign * samples[row].mean, -row))
    for row in rows:
        pairs = paired(values[first], values[row])
        apart = pairs.clear
        if pairs.differences.count < 2:
            apart = separable(samples[first], samples[row])
        found[row] = "best" if row == first else "" if apart else "tied"
    return found


def separable(one: Sample, other: Sample) -> bool:
    """Whether the 95 % interval of a difference of independent means leaves out zero (Welch's t).

    Where either is a single run there is no interval, and only equal means count as the same.
    """
    if one.sd is None or other.sd is None or one.sd == other.sd == 0.0:
        return one.mean != other.mean
    from scipy.special import stdtrit

    parts = [(s.sd or 0.0) ** 2 / s.count for s in (one, other)]  # squared errors of the means
    freedom = sum(parts) ** 2 / sum(
        part**2 / (s.count - 1) for part, s in zip(parts, (one, other), strict=True)
    )
    student = float(stdtrit(freedom, 0.5 + LEVEL / 2))
    return abs(one.mean - other.mean) > student * math.sqrt(sum(parts))
