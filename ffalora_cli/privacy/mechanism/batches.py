"""Draws the rows a client trains on in a step, by key, so that no sampler has a state.

Poisson batches under example-level privacy (the amplification that is claimed holds for these
alone), or the two samplers that claim no Poisson epsilon; otherwise shuffled epochs without
replacement. Both engines read their batches here.
"""

from __future__ import annotations

import numpy as np

from ffalora_cli import keys

SEAMS = ("poisson_batch", "rows_of_units")
"""What an audit may replace; whoever calls it looks it up in this module."""


def poisson_batch(
    key: keys.Key, client: int, round: int, step: int, rows: np.ndarray, sample_rate: float
) -> np.ndarray:
    """Every row independently with probability ``sample_rate``; may be empty.

    Args:
        key: the run secret (privacy draws never use the plain seed).
        client: client id.
        round: from 1.
        step: local step, from 0.
        rows: int64 [n], the client's rows.
        sample_rate: in (0, 1].

    Returns:
        The chosen rows in the client's order.
    """
    generator = keys.numpy_generator(keys.derive(key, "poisson", client, round, step))
    return rows[generator.random(len(rows)) < sample_rate]


def fixed_batch(
    key: keys.Key, client: int, round: int, step: int, rows: np.ndarray, batch_size: int
) -> np.ndarray:
    """Exactly ``min(batch_size, n)`` rows without replacement, every step anew.

    Args:
        key: the run secret.
        client: client id.
        round: from 1.
        step: local step, from 0.
        rows: int64 [n].
        batch_size: rows a batch.

    Returns:
        The chosen rows in the client's order.
    """
    generator = keys.numpy_generator(keys.derive(key, "fixed", client, round, step))
    chosen = generator.choice(len(rows), size=min(batch_size, len(rows)), replace=False)
    return rows[np.sort(chosen)]


def shuffled_batch(
    key: keys.Key, client: int, position: int, rows: np.ndarray, batch_size: int
) -> np.ndarray:
    """Batch number ``position`` of reshuffled epochs; a row is used at most once an epoch.

    Unlike ``epoch_batch`` a batch never goes on in the next epoch: the same row twice in one batch
    would change its sum by two clips. The last batch of an epoch may be smaller.

    Args:
        key: the run secret.
        client: client id.
        position: steps this client took before, over all rounds: its epochs have no gaps.
        rows: int64 [n].
        batch_size: rows a batch.
    """
    epoch, batch = divmod(position, -(-len(rows) // batch_size))
    generator = keys.numpy_generator(keys.derive(key, "shuffled", client, epoch))
    start = batch * batch_size
    return rows[generator.permutation(len(rows))[start : start + batch_size]]


def epoch_batch(
    key: keys.Key | int, client: int, position: int, rows: np.ndarray, batch_size: int
) -> np.ndarray:
    """Batch number ``position`` of an endless sequence of shuffled epochs.

    Args:
        key: the run's seed.
        client: client id.
        position: local steps before this one, over all rounds; no state is needed to resume.
        rows: int64 [n].
        batch_size: rows a batch; a batch that meets the end of an epoch goes on in the next.
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
    """The rows of the drawn units, in the client's order.

    Args:
        key: the run secret.
        client: client id.
        round: from 1.
        step: local step, from 0.
        drawn: numbers of units, int64 [m].
        rows: int64 [n], the client's rows.
        units: int64 [n], unit of each of them.
        most: rows of a unit that are used; of a larger one so many are drawn, every step anew.

    Returns:
        (rows, unit of each), int64 [pairs].
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
