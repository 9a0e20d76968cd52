"""Finds units that several clients hold: which clients release one unit together.

Clients are told apart, so disjoint units compose in parallel and the largest epsilon is the claim.
A text on several clients is released by each of them. How many texts that are is a function of
private rows without noise: nothing here counts them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ffalora_cli.types import Ints

_PRUNED = 500  # more sets than this are not searched for subsets of one another


Holders = tuple[tuple[int, ...], ...]
"""Distinct sets of two or more clients that hold a unit together, ascending, none a part of another
(what more clients release costs more); empty where every unit is on one client."""


def find_shared_rows(keys: npt.NDArray[np.uint64], rows: Ints, offsets: Ints) -> Holders:
    """The clients that hold units together.

    Args:
        keys: of all training rows, equal for rows of one unit ``[n]``.
        rows: row numbers, client by client ``[total]``.
        offsets: client k has ``rows[offsets[k]:offsets[k + 1]]`` ``[num_clients + 1]``.
    """
    if not len(rows):
        return ()
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    unit = np.unique(np.asarray(keys)[rows], return_inverse=True)[1].reshape(-1)
    pairs = np.unique(np.stack([unit, owner]), axis=1)  # (unit, client), by unit, then client
    first = np.flatnonzero(np.append(True, pairs[0, 1:] != pairs[0, :-1]))
    several = np.flatnonzero(np.diff(np.append(first, pairs.shape[1])) > 1)
    ends = np.append(first, pairs.shape[1])
    sets = {tuple(pairs[1, ends[i] : ends[i + 1]].tolist()) for i in several.tolist()}
    return tuple(_largest(sets))


def _largest(sets: set[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Without those that are part of another."""
    if len(sets) > _PRUNED:
        return sorted(sets)
    kept: list[frozenset[int]] = []
    for found in sorted(map(frozenset, sets), key=len, reverse=True):
        if not any(found < other for other in kept):
            kept.append(found)
    return sorted(tuple(sorted(found)) for found in kept)
