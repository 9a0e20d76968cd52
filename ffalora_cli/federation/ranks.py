"""Clients of different ranks: stacks have the largest, and what is beyond a client's own is zero.

A rank belongs to both factors of a product. Where a client's slice of one is zero, so is the
gradient of the other's: training and clipping see a client's own entries only, and they stay so as
long as its noise does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ffalora_cli.types import Dense, PayloadItem, Stack

Shapes = Mapping[str, tuple[int, ...]]


def cut(values: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The first entries along every axis, ``[..., *shape]``; axes before those stay."""
    corner: tuple[Any, ...] = (..., *(slice(extent) for extent in shape))
    return values[corner]


def padded(stack: Stack, shapes: Shapes) -> Stack:
    """Zeros beyond what every tensor ``[clients, ...]`` has, up to ``[clients, *shape]``."""
    whole = {name: values.new_zeros(len(values), *shapes[name]) for name, values in stack.items()}
    for name, values in stack.items():
        cut(whole[name], values.shape[1:]).copy_(values)
    return whole


def masked(values: torch.Tensor, extents: np.ndarray) -> torch.Tensor:
    """Every client's own entries, zero elsewhere.

    Args:
        values: ``[*shape]``, the same for all, or ``[clients, *shape]``.
        extents: int ``[clients, axes]``, how much of every axis is a client's own.

    Returns:
        ``[clients, *shape]``.
    """
    shape = values.shape[-extents.shape[1] :]
    own = torch.ones(len(extents), *shape, dtype=torch.bool)
    for axis, extent in enumerate(shape, 1):
        places = torch.arange(extent).view(-1, *[1] * (len(shape) - axis))
        own &= places < torch.from_numpy(extents[:, axis - 1]).view(-1, *[1] * len(shape))
    return torch.where(own, values, values.new_zeros(()))


def cut_items(items: Sequence[PayloadItem], shapes: Shapes) -> list[PayloadItem]:
    """The same items, dense tensors cut to ``shapes`` where they name them."""
    return [
        replace(item, values=cut(item.values, shapes[item.name]))
        if isinstance(item, Dense) and item.name in shapes
        else item
        for item in items
    ]
