"""Converts between the rows of a micro-batch, end to end, and dense blocks of its examples.

A layer works on rows ``[rows, d]``; attention, per-example factors and Gram norms work on blocks
``[examples, tokens, d]``. Three ways from one to the other, all exact:

- ``Runs``: examples sorted by length, end to end; a block is a run of equal length, a view.
- ``Rectangle``: end to end, too, but one block for all, gathered by an index: fixed shapes and few
  kernels, for a GPU.
- ``Padded``: the rows of a model that pads; the block is the same memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

ROW_BUCKET = 16  # head rows of the last layer are rounded up to a multiple of this
TOKEN_BUCKET = 64  # rows of packed matrices are (``Runs`` says why)


class Layout(Protocol):
    """What layers and gradients need to know of a micro-batch."""

    @property
    def counts(self) -> Sequence[int]:
        """Examples in each block; together all of them, in order."""

    @property
    def owner(self) -> np.ndarray:
        """Example of each row, int64 [rows]; -1 for rows that belong to none."""

    def blocks(self, x: Tensor) -> list[Tensor]:
        """Rows ``[rows, d]`` as blocks ``[examples, tokens, d]``; zeros where there is no token."""

    def join(self, blocks: list[Tensor], rest: Tensor | None = None) -> Tensor:
        """Blocks back to rows ``[rows, d]``; those of no example as in ``rest``, or zero."""

    def masks(self) -> list[Tensor | None]:
        """Of each block, True where there is a token ``[examples, tokens]``; None: everywhere."""


@dataclass(frozen=True)
class Runs:
    """Runs of examples of equal length, in the order of the packed tokens.

    ``padding`` rows follow the last run: oneDNN keeps a compiled primitive of about a megabyte for
    every matrix shape it meets, so the number of shapes has to be small. They pass through the
    linear layers only and reach no result.
    """

    counts: tuple[int, ...]  # examples in each run
    lengths: tuple[int, ...]  # tokens of each example of the run
    padding: int

    @staticmethod
    def of(lengths: np.ndarray) -> Runs:
        """Runs of equal values in ``lengths`` (int [examples], sorted)."""
        starts = np.flatnonzero(np.r_[True, lengths[1:] != lengths[:-1]])
        counts = np.diff(np.r_[starts, len(lengths)])
        runs = tuple(int(lengths[s]) for s in starts)
        return Runs(tuple(map(int, counts)), runs, -int(lengths.sum()) % TOKEN_BUCKET)

    @cached_property
    def heads(self) -> Runs:
        """All examples as one run of one row each: what the head reads."""
        examples = sum(self.counts)
        return Runs((examples,), (1,), -examples % ROW_BUCKET)

    @cached_property
    def owner(self) -> np.ndarray:
        """Example of each row, int64 [rows]; -1 for padding."""
        examples = np.arange(sum(self.counts), dtype=np.int64)
        owners = np.repeat(examples, np.repeat(self.lengths, self.counts))
        return np.r_[owners, np.full(self.padding, -1, np.int64)]

    def blocks(self, x: Tensor) -> list[Tensor]:
        """Views ``[n, length, d]``, one a run."""
        sizes = [n * length for n, length in zip(self.counts, self.lengths, strict=True)]
        runs = x[: x.shape[0] - self.padding].split(sizes)
        return [run.unflatten(0, (n, -1)) for run, n in zip(runs, self.counts, strict=True)]

    def join(self, blocks: list[Tensor], rest: Tensor | None = None) -> Tensor:
        """Rows of all runs end to end, and the padding after them."""
        rows = [block.reshape(-1, block.shape[-1]) for block in blocks]
        if self.padding:
            tail = (
                rows[0].new_zeros(self.padding, rows[0].shape[1])
                if rest is None
                else rest[rest.shape[0] - self.padding :]
            )
            rows.append(tail)
        return torch.cat(rows) if len(rows) > 1 else rows[0]

    def masks(self) -> list[Tensor | None]:
        """Nothing is masked."""
        return [None] * len(self.counts)


@dataclass(frozen=True)
class Padded:
    """``examples`` times ``tokens`` rows of a model that pads; its own mask keeps them apart."""

    examples: int
    tokens: int

    @property
    def counts(self) -> tuple[int, ...]:
        """One block."""
        return (self.examples,)

    @cached_property
    def owner(self) -> np.ndarray:
        """Example of each row, int64 [rows]."""
        return np.repeat(np.arange(self.examples, dtype=np.int64), self.tokens)

    def blocks(self, x: Tensor) -> list[Tensor]:
        """The same memory ``[examples, tokens, d]``."""
        return [x.reshape(self.examples, self.tokens, x.shape[-1])]

    def join(self, blocks: list[Tensor], rest: Tensor | None = None) -> Tensor:
        """Rows ``[rows, d]``; there are none without an example."""
        return blocks[0].reshape(-1, blocks[0].shape[-1])

    def masks(self) -> list[Tensor | None]:
        """Padding has no gradient, so nothing needs masking here."""
        return [None]


@dataclass(frozen=True)
class Rectangle:
    """All examples in one gathered block of fixed size; made by ``of``.

    An example beyond the real ones owns one row of the padding, so that its attention is finite.
    """

    index: Tensor  # int64 [examples, tokens], row of each token; some padding row where none
    mask: Tensor  # bool [examples, tokens]
    position: Tensor  # int64 [rows], of each row in the flattened block; 0 for padding
    real: Tensor  # bool [rows, 1], whether the row is a token
    owner: np.ndarray  # int64 [rows], -1 for padding

    @staticmethod
    def of(lengths: np.ndarray, rows: int, examples: int, tokens: int) -> Rectangle:
        """The layout of examples end to end.

        Args:
            lengths: int [real examples].
            rows: of the packed matrices, more than ``lengths.sum()``.
            examples: of the block, at least the real ones.
            tokens: of the block, at least the longest example.

        Returns:
            Its tensors on the CPU.
        """
        used, n = int(lengths.sum()), len(lengths)
        starts = np.r_[0, np.cumsum(lengths)[:-1]].astype(np.int64)
        columns = np.arange(tokens)
        mask = np.zeros((examples, tokens), bool)
        mask[:n] = columns < lengths[:, None]
        index = np.full((examples, tokens), used, np.int64)
        index[:n] = np.where(mask[:n], starts[:, None] + columns, used)
        mask[n:, 0] = True
        owner = np.full(rows, -1, np.int64)
        owner[:used] = np.repeat(np.arange(n), lengths)
        position = np.zeros(rows, np.int64)
        position[:used] = owner[:used] * tokens + np.arange(used) - starts[owner[:used]]
        tensors = map(torch.from_numpy, (index, mask, position, (owner >= 0)[:, None]))
        return Rectangle(*tensors, owner=owner)

    @property
    def counts(self) -> tuple[int, ...]:
        """One block."""
        return (self.index.shape[0],)

    @property
    def heads(self) -> Padded:
        """One row an example."""
        return Padded(self.index.shape[0], 1)

    def blocks(self, x: Tensor) -> list[Tensor]:
        """Gathered ``[examples, tokens, d]``."""
        gathered = x.index_select(0, self.index.flatten()).view(*self.index.shape, -1)
        return [torch.where(self.mask[:, :, None], gathered, 0)]

    def join(self, blocks: list[Tensor], rest: Tensor | None = None) -> Tensor:
        """Gathered back ``[rows, d]``."""
        flat = blocks[0].reshape(-1, blocks[0].shape[-1])
        rows = flat.index_select(0, self.position)
        return torch.where(self.real, rows, 0 if rest is None else rest)

    def masks(self) -> list[Tensor | None]:
        """Where the block holds a token."""
        return [self.mask]
