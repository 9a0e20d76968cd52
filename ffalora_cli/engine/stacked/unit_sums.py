"""Clips units of several rows: each row's gradient to C, then the sum over the unit's rows.

Norms of rows do not add up to the norm of their sum, so the rows' clipped gradients are
materialised and kept until the last row of their unit is in; only then the unit is one gradient
among others. A unit of one row needs none of this: clipping once more what is within C changes
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ffalora_cli.adapters.ghost import Tape
from ffalora_cli.engine.job import ExamplePrivacy, StepBatches
from ffalora_cli.engine.stacked import clipped_sums
from ffalora_cli.engine.stacked.clipped_sums import (
    CLIPPED,
    LOSS,
    NONFINITE,
    ROWS,
    Whole,
    new_counts,
)
from ffalora_cli.types import Stack

SEAMS = ("whole_units", "close_units")


@dataclass(frozen=True)
class Sums:
    """Where a part's clipped rows are added: to their clients, or to units of several rows.

    Attributes:
        owner: int64 [pairs], entry that each pair of the part is added to.
        total: ``[entries, ...]`` by name.
        counts: float64 ``[entries, 5]``.
        slots: int64 [units], client of each unit; None where the entries are the clients.
    """

    owner: np.ndarray
    total: Stack
    counts: Tensor
    slots: np.ndarray | None = None

    @staticmethod
    def of_units(part: StepBatches, like: Stack) -> Sums:
        """Nothing added yet to the units of a part; shapes and device as those of ``like``."""
        assert part.units is not None
        _, first, owner = np.unique(part.units, return_index=True, return_inverse=True)
        empty = {n: v.new_zeros(len(first), *v.shape[1:]) for n, v in like.items()}
        device = next(iter(like.values())).device
        return Sums(owner, empty, new_counts(len(first), device), part.slots[first])


def single_rows(pairs: StepBatches) -> StepBatches:
    """The pairs whose unit has no other row in this step, in their order."""
    several = _of_several(pairs)
    if several is None:
        return pairs
    return StepBatches(pairs.slots[~several], pairs.rows[~several])


def whole_units(pairs: StepBatches, most: int) -> Iterator[StepBatches]:
    """The pairs of units of several rows, at most ``most`` units at a time, never a part of one."""
    several = _of_several(pairs)
    if several is None:
        return
    assert pairs.units is not None
    at = np.flatnonzero(several)
    number = np.unique(pairs.units[at], return_inverse=True)[1]  # 0, 1, ... of these units
    for start in range(0, int(number.max(initial=-1)) + 1, most):
        here = at[(number >= start) & (number < start + most)]
        yield StepBatches(pairs.slots[here], pairs.rows[here], pairs.units[here])


def close_units(privacy: ExamplePrivacy | None, sums: Sums, total: Stack, counts: Tensor) -> None:
    """Clip every unit's sum and add it to its client's; one non-finite row has dropped its unit.

    Args:
        privacy: gives the clip.
        sums: of units whose last row is in.
        total: ``[clients, ...]`` by name.
        counts: float64 ``[clients, 5]``.
    """
    assert sums.slots is not None
    loss, broken = sums.counts[:, LOSS], sums.counts[:, NONFINITE] > 0
    losses = torch.where(broken, torch.nan, loss)
    whole = Whole(sums.counts[:, ROWS], sums.counts[:, CLIPPED] > 0)
    slots = torch.from_numpy(sums.slots).to(counts.device)
    into = (Tape(sums.slots, len(counts)), total, counts, None, whole)
    clipped_sums.add_clipped(privacy, slots, losses, sums.total, *into)


def _of_several(pairs: StepBatches) -> np.ndarray | None:
    """Which pairs belong to a unit with another row in this step, bool [pairs]; None if none."""
    if pairs.units is None or not len(pairs.units):
        return None
    several: np.ndarray = np.bincount(pairs.units)[pairs.units] > 1
    return several if several.any() else None
