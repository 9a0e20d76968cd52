"""Deals groups of rows to clients by given counts: whole ones, in keyed random order."""

from __future__ import annotations

import heapq

import numpy as np

from ffalora_cli.data.groups import Groups
from ffalora_cli.keys import Key, derive, numpy_generator


def deal(counts: np.ndarray, groups: Groups, key: Key) -> np.ndarray:
    """Give each client its count of rows of each label, as near as whole groups allow.

    Within a label, groups of several rows come first, the largest to the client that lacks most of
    its share of them; groups of one row fill up what is left. While single rows suffice, sizes are
    exact; with single rows alone this is a keyed shuffle, cut.

    Args:
        counts: [labels, clients]; row ``c`` sums to the rows of the groups of label ``c``.
        groups: to deal.
        key: of the shuffle.

    Returns:
        Client of each group, int64 [groups].
    """
    shuffled = numpy_generator(derive(key, "order")).permutation(len(groups))
    by_label = shuffled[np.argsort(groups.strata[shuffled].astype(np.int32), kind="stable")]
    ends = np.searchsorted(groups.strata[by_label], np.arange(len(counts)), side="right")
    owner = np.empty(len(groups), dtype=np.int64)
    clients = np.arange(counts.shape[1])
    for wanted, members in zip(counts, np.split(by_label, ends[:-1]), strict=True):
        sizes = groups.sizes[members]
        several = members[sizes > 1]
        if len(several):
            owner[several] = _to_the_neediest(wanted, groups.sizes[several])
            given = np.bincount(owner[several], groups.sizes[several], len(clients))
            wanted = _fill(wanted - given.astype(np.int64), len(members) - len(several))
        owner[members[sizes == 1]] = np.repeat(clients, wanted)
    return owner


def sizes_of(owner: np.ndarray, groups: Groups, num_clients: int) -> np.ndarray:
    """Rows of each client, int64 [clients]. owner: client of each group."""
    return np.bincount(owner, groups.sizes, num_clients).astype(np.int64)


def _to_the_neediest(wanted: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Client of each group, int64 [groups]: largest first, each to who lacks most of its share."""
    share = wanted * (sizes.sum() / wanted.sum())
    lacks = [(-float(rows), client) for client, rows in enumerate(share)]
    heapq.heapify(lacks)
    owner = np.empty(len(sizes), dtype=np.int64)
    for group in np.argsort(-sizes, kind="stable").tolist():
        lack, client = lacks[0]
        owner[group] = client
        heapq.heapreplace(lacks, (lack + float(sizes[group]), client))
    return owner


def _fill(lacking: np.ndarray, rows: int) -> np.ndarray:
    """Cut single rows by what clients lack; exact where nobody has too many, int64 [clients]."""
    short = np.cumsum(np.maximum(lacking, 0))
    if not rows:
        return np.zeros_like(lacking)
    return np.diff(np.rint(short / short[-1] * rows).astype(np.int64), prepend=0)
