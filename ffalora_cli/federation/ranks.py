"""Cuts and pads tensors of clients of different ranks: beyond a client's own rank all is zero.

A rank belongs to both factors of a product. Where a client's slice of one is zero, so is the
gradient of the other's: training and clipping see a client's own entries only, and they stay so as
long as its noise does. A form without this property has one rank for all (``nested``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ffalora_cli import keys
from ffalora_cli.adapters.base import Form
from ffalora_cli.types import Dense, PayloadItem, Site, Stack

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


def nested(form: Form, site: Site, rank: int, most: int) -> bool:
    """Whether zeros beyond a rank do not change ``dW`` and get no gradient, on random factors.

    Otherwise training would move entries that no noise covers.
    """
    own = form.factors(site, rank)
    drawn = {
        name: keys.normal(keys.derive(0, "nested", name), shape)
        for name, shape in form.factors(site, most).items()
    }
    values = {n: masked(v, np.array([own[n]]))[0].requires_grad_() for n, v in drawn.items()}
    dense = form.dense(values, 1.0)  # [d_out, d_in]
    seen = keys.normal(keys.derive(0, "nested"), tuple(dense.shape))
    grads = torch.autograd.grad((dense * seen).sum(), list(values.values()), allow_unused=True)
    small = form.dense({n: cut(v, own[n]) for n, v in values.items()}, 1.0)
    found = zip(values, grads, strict=True)
    still = all(
        grad is None or torch.equal(grad, masked(grad, np.array([own[name]]))[0])
        for name, grad in found
    )
    return still and torch.allclose(dense, small, rtol=1e-3, atol=1e-4)
