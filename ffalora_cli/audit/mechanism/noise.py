"""Checks scale, shape and independence of the noise against the plan.

All functions take ``Draws``: noise in units of what is claimed, so standard normal when it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binom, chi2, kstest, kstwobign, norm

from ffalora_cli.audit.mechanism.draws import Draws
from ffalora_cli.audit.outcome import LEVEL, Check, exact, furthest, normal, together

SHAPED = 50_000  # values of a tensor that the test of shape sorts
TAIL = 3.5  # in standard deviations


def noise_checks(empty: Draws, full: Draws, heads: npt.NDArray[np.float32]) -> list[Check]:
    """The whole battery on noise.

    Args:
        empty: many draws from empty batches.
        full: fewer draws, from ordinary batches of zero gradients.
        heads: first values of many small draws ``[draws, 4]``.
    """
    return [
        scale_by(empty, "tensor"),
        scale_by(empty, "client"),
        scale_by(full, "tensor", "noise sd, full batches"),
        centre(empty),
        shape(empty),
        tails(empty),
        norms(empty),
        *(independence(empty, axis) for axis in ("tensors", "clients", "steps", "rounds")),
        repeats(empty.first[..., :4].reshape(-1, 4), "noise never repeats"),
        repeats(heads, "noise keys are wide"),
    ]


def scale_by(draws: Draws, what: str, name: str = "") -> Check:
    """Standard deviation per tensor (or per client): the sum of squares is chi-squared."""
    axis = 3 if what == "tensor" else 2
    others = tuple(i for i in range(4) if i != axis)
    squares = draws.squares.sum(others)  # [tensors] or [clients]
    per_client = draws.squares.shape[0] * draws.squares.shape[1] * draws.sizes.sum()
    counts = draws.sizes * draws.pairs if what == "tensor" else np.full(len(squares), per_client)
    ratio = np.sqrt(squares / counts)
    worst = int(np.argmax(np.abs(ratio - 1.0) * np.sqrt(counts)))
    reached = furthest(len(squares)) / np.sqrt(2.0 * counts[worst])
    interval = 3.29 / np.sqrt(2.0 * counts[worst])  # 99.9 %
    where = draws.names[worst] if what == "tensor" else f"client {worst}"
    text = (
        f"{100 * (ratio[worst] - 1):+.2f} % ± {100 * interval:.2f} % of the claim at most "
        f"({where}, {len(squares)} {what}s)"
    )
    p_value = together(2.0 * np.minimum(chi2.cdf(squares, counts), chi2.sf(squares, counts)))
    off = float(abs(ratio[worst] - 1.0))
    return Check(name or f"noise sd per {what}", off, float(reached), p_value, True, text)


def centre(draws: Draws) -> Check:
    """The mean of each tensor's noise is zero."""
    values = _by_axis(draws.first, 3)  # [tensors, draws]
    z = values.mean(1) * np.sqrt(values.shape[1])
    return normal("noise mean", z, f"{{}}; over {len(z)} tensors")


def shape(draws: Draws) -> Check:
    """Kolmogorov-Smirnov against the standard normal, each tensor."""
    values = _by_axis(draws.first, 3)[:, :SHAPED]
    results = [kstest(row, "norm", method="asymp") for row in values]
    return _distance("noise is Gaussian", results, values.shape[1], "values")


def tails(draws: Draws) -> Check:
    """Share of values beyond 3.5 standard deviations: a binomial count."""
    beyond = 2.0 * float(norm.sf(TAIL))
    count, total = int((np.abs(draws.first) > TAIL).sum()), draws.first.size
    z = (count - total * beyond) / np.sqrt(total * beyond)
    p_value = together(
        2.0 * min(binom.cdf(count, total, beyond), binom.sf(count - 1, total, beyond))
    )
    text = f"{count:,} of {total:,} values beyond {TAIL} sd, {total * beyond:,.0f} expected"
    return Check("noise tails", float(abs(z)), furthest(1), p_value, True, text)


def norms(draws: Draws) -> Check:
    """Squared norms of whole draws are chi-squared: values within a draw are independent, too."""
    columns = draws.squares.reshape(-1, len(draws.names))
    results = [
        kstest(column, chi2(size).cdf, method="asymp")
        for column, size in zip(columns.T, draws.sizes, strict=True)
    ]
    return _distance("noise norms", results, draws.pairs, "draws")


def independence(draws: Draws, axis: str) -> Check:
    """Correlation of every pair along an axis (a tensor with another, a round with another, ...).

    A correlation of n independent pairs is normal with sd 1/sqrt(n).
    """
    names = ("rounds", "steps", "clients", "tensors")
    rows = _by_axis(draws.first, names.index(axis))
    name = f"noise across {axis}"
    if len(rows) < 2:
        return exact(name, 0, f"only one of the {axis} to compare")
    gram = rows @ rows.T
    lengths = np.sqrt(np.maximum(np.diag(gram), 1e-30))
    correlation = (gram / np.outer(lengths, lengths))[np.triu_indices(len(rows), 1)]
    z = correlation * np.sqrt(rows.shape[1])
    largest = f"correlation at most {np.abs(correlation).max():.4f}"
    return normal(name, z, f"{{}}; {len(z):,} pairs, {largest}")


def repeats(heads: npt.NDArray[np.float32], name: str) -> Check:
    """No two draws begin with the same bits, whatever their round, step, client or tensor.

    Among n draws keyed by b bits, n^2 / 2^(b+1) pairs are the same: 200,000 draws show a generator
    that uses 32 bits of its seed.
    """
    bits = np.ascontiguousarray(heads).view(np.int32)
    repeated = len(heads) - len(np.unique(bits, axis=0))
    return exact(name, repeated, f"{repeated:,} of {len(heads):,} draws begin as another one does")


def _by_axis(values: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float64]:
    """``[axis, everything else]`` in double precision."""
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1).astype(np.float64)


def _distance(name: str, results: Sequence[Any], count: int, of: str) -> Check:
    """Several Kolmogorov-Smirnov tests of ``count`` values each as one check."""
    statistic = max(float(result.statistic) for result in results)
    limit = float(kstwobign.isf(LEVEL / len(results)) / np.sqrt(count))
    p_value = together([result.pvalue for result in results])
    text = f"largest distance {statistic:.4f}; {len(results)} tensors, {count:,} {of} each"
    return Check(name, statistic, limit, p_value, True, text)
