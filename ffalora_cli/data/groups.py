"""Groups rows that belong together: those of one text, or of one person or document.

A partition deals groups and a hold-out takes whole ones, so that no text is in two places.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ffalora_cli.tasks.targets import Targets

SEPARATOR = "\x1f"  # between columns; a blank to ``str.split``, so no normalised text holds it


@dataclass(frozen=True, kw_only=True)
class KeyedRows:
    """Rows, tokenised or not, that know what belongs together and whose they are."""

    targets: Targets
    clients: np.ndarray | None = None  # int64 [n], 0.. in sorted order of the column's values
    client_names: tuple[str, ...] | None = None  # by client, as the column has them
    hashes: np.ndarray  # uint64 [n], equal for texts that differ in blanks around them at most
    text_keys: np.ndarray  # uint64 [n], equal for equal normalised texts
    unit_keys: np.ndarray | None = None  # uint64 [n], equal for equal values of task.unit_column

    def __len__(self) -> int:
        return len(self.targets)

    def keyed(self, rows: np.ndarray) -> KeyedRows:
        """Some rows, without what else is known of them. rows: [m]."""
        return KeyedRows(
            targets=self.targets.take(rows),
            clients=None if self.clients is None else self.clients[rows],
            client_names=self.client_names,
            hashes=self.hashes[rows],
            text_keys=self.text_keys[rows],
            unit_keys=None if self.unit_keys is None else self.unit_keys[rows],
        )


@dataclass(frozen=True)
class Groups:
    """Groups of rows, numbered in the order of their first rows."""

    of_row: np.ndarray  # int64 [n], group of each row
    sizes: np.ndarray  # int64 [groups], rows
    strata: np.ndarray  # int64 [groups], commonest label (of several the lowest)

    def __len__(self) -> int:
        return len(self.sizes)


def normalised(text: str) -> str:
    """The text in NFKC, case-folded, runs of blanks as one and none at its ends."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def text_keys(texts: tuple[list[str], ...]) -> np.ndarray:
    """A hash of each row's normalised texts, all columns together, uint64 [n].

    Args:
        texts: one list a text column, each [n].
    """
    return as_keys(SEPARATOR.join(map(normalised, row)) for row in zip(*texts, strict=True))


def group_rows(labels: np.ndarray, keys: np.ndarray | None) -> Groups:
    """Groups of the rows with equal keys.

    Args:
        labels: int [n].
        keys: uint64 [n], equal for rows of one group; None: each row is its own.
    """
    labels = np.asarray(labels, dtype=np.int64)
    if keys is None:
        n = len(labels)
        return Groups(np.arange(n), np.ones(n, dtype=np.int64), labels)
    of_row = in_order(keys)
    sizes = np.bincount(of_row)
    pairs, counts = np.unique(np.stack([of_row, labels], axis=1), axis=0, return_counts=True)
    best = np.lexsort((pairs[:, 1], -counts, pairs[:, 0]))  # a group's commonest, lowest first
    first = np.unique(pairs[best, 0], return_index=True)[1]
    return Groups(of_row, sizes, pairs[best, 1][first])


def in_order(keys: np.ndarray) -> np.ndarray:
    """Number equal keys 0, 1, ... in the order in which they first appear, int64 [n]."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    number = np.empty(len(first), dtype=np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    return number[inverse.reshape(-1)]


def as_keys(texts: Iterable[str | bytes]) -> np.ndarray:
    """Eight bytes of BLAKE2b a text, uint64 [n]."""
    digests = (
        hashlib.blake2b(t.encode() if isinstance(t, str) else t, digest_size=8).digest()
        for t in texts
    )
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)
