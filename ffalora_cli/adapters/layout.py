"""Lays the examples of a micro-batch out as rows, so that every layer works on views.

A layer works on rows ``[rows, d]``; attention, per-example factors and Gram norms work on blocks
``[examples, tokens, d]``. The examples, sorted by length, stand end to end in few classes; those of
one class take as many rows as its longest, so a block is a view of the rows: nothing is gathered or
scattered, forward or backward. What fills an example up is no key of the attention and has a
gradient of zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

ROW_BUCKET = 16  # head rows of the last layer are rounded up to a multiple of this
TOKEN_BUCKET = 64  # rows of a micro-batch are (``Layout.of`` says why)
CLASS_ROWS = {torch.float32: 6, torch.bfloat16: 24}  # cost a CPU as much as one class more


@dataclass(frozen=True)
class Layout:
    """Which rows are whose.

    Attributes:
        counts: examples of each class.
        lengths: rows of each of its examples.
        owner: int64 [rows], example of each row; -1 where there is no token.
        keys: bool [rows], what the attention may look at: every token, and the first row of an
            example that only fills the layout up, so that its softmax is finite. None: every row.
        full: whether every row of a class is known to be a token, by class.
    """

    counts: tuple[int, ...]
    lengths: tuple[int, ...]
    owner: np.ndarray = field(compare=False)
    keys: Tensor | None = field(default=None, compare=False)
    full: tuple[bool, ...] = ()

    @staticmethod
    def of(lengths: np.ndarray, class_rows: int) -> Layout:
        """Classes of examples of nearly equal length, and rows of nobody after them.

        Args:
            lengths: int [examples], longest first.
            class_rows: price of a class in rows.

        Returns:
            On the CPU.
        """
        cut = classes(lengths, class_rows)
        counts, sizes = tuple(b - a for a, b in cut), tuple(int(lengths[a]) for a, _ in cut)
        layout = Layout.within(counts, sizes, lengths)
        assert layout.keys is not None
        full = tuple(bool(block.all()) for block in layout.blocks(layout.keys))
        return replace(layout, full=full)

    @staticmethod
    def within(counts: tuple[int, ...], sizes: tuple[int, ...], lengths: np.ndarray) -> Layout:
        """Examples in the first places of given classes; the other places own no token.

        The rows are rounded up: oneDNN keeps a compiled primitive of about a megabyte for every
        matrix shape it meets, so the number of shapes has to be small.

        Args:
            counts: places of each class.
            sizes: rows of each of its places.
            lengths: int [examples], longest first, no more and none longer than there is place for.

        Returns:
            On the CPU.
        """
        room = np.repeat(sizes, counts)  # [places]
        held = np.zeros_like(room)
        held[: len(lengths)] = lengths
        place = np.repeat(np.arange(len(room)), room)  # [rows], as is ``column``
        column = np.arange(len(place)) - (np.cumsum(room) - room)[place]
        token = column < held[place]
        rest = np.zeros(-len(place) % TOKEN_BUCKET, bool)
        owner = np.where(np.r_[token, rest], np.r_[place, rest], -1)
        keys = np.r_[token | ((held == 0)[place] & (column == 0)), rest]
        return Layout(counts, sizes, owner, torch.from_numpy(keys), (False,) * len(counts))

    @staticmethod
    @lru_cache(64)  # one object for all layers of a pass
    def padded(examples: int, tokens: int) -> Layout:
        """Rows of a model that pads; its own mask keeps the examples apart."""
        return Layout((examples,), (tokens,), np.repeat(np.arange(examples), tokens))

    @property
    def examples(self) -> int:
        """Of all classes."""
        return sum(self.counts)

    @property
    def starts(self) -> np.ndarray:
        """First row of every example, int64 [examples]."""
        rows = np.repeat(np.array(self.lengths, np.int64), self.counts)
        return np.cumsum(rows) - rows

    def heads(self) -> Layout:
        """One row an example, which is what a head reads, and rows of nobody after them."""
        owner = np.arange(_up(self.examples, ROW_BUCKET))
        return Layout((self.examples,), (1,), np.where(owner < self.examples, owner, -1))

    def blocks(self, x: Tensor) -> list[Tensor]:
        """Rows ``[rows, d]`` (or ``[rows]``) as views ``[examples, tokens, d]``, one a class."""
        sizes = [n * length for n, length in zip(self.counts, self.lengths, strict=True)]
        parts = x.split([*sizes, len(x) - sum(sizes)])  # one piece more: its gradient is one copy
        return [part.unflatten(0, (n, -1)) for part, n in zip(parts, self.counts, strict=False)]

    def join(self, blocks: Sequence[Tensor]) -> Tensor:
        """Blocks back to rows ``[rows, d]``; those of nobody are zero."""
        rows = [block.flatten(0, 1) for block in blocks]
        rest = len(self.owner) - sum(map(len, rows))
        if rest:
            rows.append(rows[0].new_zeros(rest, *rows[0].shape[1:]))
        return torch.cat(rows) if len(rows) > 1 else rows[0]

    def masks(self) -> list[Tensor | None]:
        """Of each block, which tokens are keys, bool ``[examples, tokens]``; None: all."""
        if self.keys is None:
            return [None] * len(self.counts)
        masks = self.blocks(self.keys)
        return [None if whole else mask for mask, whole in zip(masks, self.full, strict=True)]


def classes(lengths: np.ndarray, class_rows: int) -> list[tuple[int, int]]:
    """Cut examples, longest first, into classes: fewest rows, each class counted as ``class_rows``.

    Returns:
        First example of each class, and the one after its last.
    """
    ends = np.r_[np.flatnonzero(np.diff(lengths)) + 1, len(lengths)]  # after each distinct length
    starts = np.r_[0, ends[:-1]]
    longest = lengths[starts].astype(np.int64)
    best, before = np.zeros(len(ends) + 1, np.int64), np.zeros(len(ends), np.int64)
    for i, end in enumerate(ends):
        costs = best[: i + 1] + (end - starts[: i + 1]) * longest[: i + 1]
        before[i] = costs.argmin()
        best[i + 1] = costs[before[i]] + class_rows
    cut, i = [], len(ends)
    while i:
        cut.append((int(starts[before[i - 1]]), int(ends[i - 1])))
        i = int(before[i - 1])
    return cut[::-1]


def _up(count: int, unit: int) -> int:
    """The next multiple of ``unit``."""
    return -(-count // unit) * unit
