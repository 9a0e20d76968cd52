"""Draws the rows a client trains on in a step, by key, so that no sampler has a state.

Poisson batches under example-level privacy (the amplification that is claimed holds for these
alone), or the two samplers that claim no Poisson epsilon; otherwise shuffled epochs without
replacement. Both engines read their batches here.

Everywhere ``key`` is the run secret (privacy draws never use the plain seed, which ``epoch_batch``
takes), ``client`` an id, ``round`` from 1, ``step`` the local step from 0, ``rows`` int64 [n] those
of the client, ``position`` the steps it took before, over all rounds, so that no state is needed to
resume. What is chosen comes in the client's order where nothing else is said.
"""

from __future__ import annotations

import numpy as np

from ffalora_cli import keys

SEAMS = ("poisson_batch", "rows_of_units")
"""What an audit may replace; whoever calls it looks it up in this module."""


def poisson_batch(
    key: keys.Key, client: int, round: int, step: int, rows: np.ndarray, sample_rate: float
) -> np.ndarray:
    """Every row independently with probability ``sample_rate`` in (0, 1]; may be empty."""
    generator = keys.numpy_generator(keys.derive(key, "poisson", client, round, step))
    return rows[generator.random(len(rows)) < sample_rate]


def fixed_batch(
    key: keys.Key, client: int, round: int, step: int, rows: np.ndarray, batch_size: int
) -> np.ndarray:
    """Exactly ``min(batch_size, n)`` rows without replacement, every step anew."""
    generator = keys.numpy_generator(keys.derive(key, "fixed", client, round, step))
    chosen = generator.choice(len(rows), size=min(batch_size, len(rows)), replace=False)
    return rows[np.sort(chosen)]


def shuffled_batch(
    key: keys.Key, client: int, position: int, rows: np.ndarray, batch_size: int
) -> np.ndarray:
    """Batch number ``position`` of reshuffled epochs; a row is used at most once an epoch.

    Unlike ``epoch_batch`` a batch never goes on in the next epoch: the same row twice in one batch
    would change its sum by two clips. The last batch of an epoch may be smaller.
    """
    epoch, batch = divmod(position, -(-len(rows) // batch_size))
    generator = keys.numpy_generator(keys.derive(key, "shuffled", client, epoch))
    start = batch * batch_size
    return rows[generator.permutation(len(rows))[start : start + batch_size]]


def epoch_batch(
    key: keys.Key | int, client: int, position: int, rows: np.ndarray, batch_size: int
) -> np.ndarray:
    """Batch number ``position`` of an endless sequence of shuffled epochs, in their order.

    A batch that meets the end of an epoch goes on in the next.
    """
    n = len(rows)
    size = min(batch_size, n)
    start = position * size
    chosen: list[np.ndarray] = []
    while size > 0:
        epoch, offset = divmod(start, n)
        generator = keys.numpy_generator(keys.derive(key, "epoch", client, epoch))
        taken = generator.permutation(n)[offset : offset + size]
        chosen.append(rows[taken])
        start += len(taken)
        size -= len(taken)
    return np.concatenate(chosen)


def rows_of_units(
    key: keys.Key,
    client: int,
    round: int,
    step: int,
    drawn: np.ndarray,
    rows: np.ndarray,
    units: np.ndarray,
    most: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the units ``drawn`` (int64 [m]), and the unit of each: int64 [pairs] both.

    ``units`` int64 [n] is the unit of each of ``rows``. Of a unit with more than ``most`` rows so
    many are drawn, every step anew.
    """
    chosen = np.zeros(int(units.max(initial=-1)) + 1, dtype=bool)
    chosen[drawn] = True
    kept = chosen[units]
    if most is not None:
        sizes = np.bincount(units[kept], minlength=len(chosen))
        for unit in np.flatnonzero(sizes > most).tolist():
            place = (client, round, step, unit)
            generator = keys.numpy_generator(keys.derive(key, "rows of a unit", *place))
            of_unit = np.flatnonzero(units == unit)
            kept[generator.permutation(of_unit)[most:]] = False
    return rows[kept], units[kept]
