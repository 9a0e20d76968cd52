"""From per-example gradients to each client's clipped sum, and what is counted on the way."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ffalora_cli.engine.job import ExamplePrivacy
from ffalora_cli.models.booked import Book
from ffalora_cli.privacy.example_level import clip_factors
from ffalora_cli.types import Stack

FEW_CLIENTS = 16  # so many in a micro-batch are summed by one product, more by index_add


def add_clipped(
    privacy: ExamplePrivacy | None,
    slots: Tensor,
    losses: Tensor,
    grads: Stack,
    book: Book | None,
    total: Stack,
    counts: Tensor,
    real: Tensor | None = None,
) -> None:
    """Clip every example's gradient by its joint norm and add it to its client's sum, in place.

    A non-finite example is replaced, never multiplied by zero (0 × NaN would spread in a product).

    Args:
        privacy: gives the clip; None: nothing is clipped.
        slots: int64 [examples], client of each example.
        losses: ``[examples]``.
        grads: per-example gradients ``[examples, ...]`` by name.
        book: the tensors whose gradients were not formed.
        total: ``[clients, ...]`` by name.
        counts: float64 ``[clients, 4]``: loss, examples seen, clipped, non-finite.
        real: bool [examples], False for what only fills a shape up and counts as nothing.
    """
    squares = sum((g.flatten(1).square().sum(1) for g in grads.values()), torch.zeros_like(losses))
    booked = () if book is None else tuple(book.entries)
    for name in booked:
        squares = squares + book.squares(name)  # type: ignore[union-attr]
    finite = torch.isfinite(squares) & torch.isfinite(losses)
    seen = torch.ones_like(finite) if real is None else real
    finite = finite & seen
    if privacy is None:
        factors = finite.float()
    else:
        factors = torch.where(finite, clip_factors(squares, privacy.max_grad_norm), 0.0)
    # Looking at the flags would make a GPU wait, so there the rows are always replaced.
    clean = losses.device.type == "cpu" and bool(finite.all())
    add_rows = _adder(slots, factors, next(iter(total.values())).shape[0])
    for name, grad in grads.items():
        rows = grad.flatten(1)
        add_rows(total[name], rows if clean else torch.where(finite[:, None], rows, 0.0))
    for name in booked:
        total[name] += book.sums(name, factors, clean)  # type: ignore[union-attr]
    columns = [torch.where(finite, losses, 0.0), seen, finite & (factors < 1.0), seen & ~finite]
    counts.index_add_(0, slots, torch.stack([column.double() for column in columns], 1))


def _adder(slots: Tensor, factors: Tensor, clients: int) -> Callable[[Tensor, Tensor], None]:
    """A function that adds rows ``[examples, size]`` times factors to ``total [clients, ...]``."""
    if clients > FEW_CLIENTS:

        def scattered(total: Tensor, rows: Tensor) -> None:
            scaled = (rows * factors[:, None]).view(-1, *total.shape[1:])
            total.index_add_(0, slots, scaled)

        return scattered
    weights = factors.new_zeros(clients, len(slots))  # [clients, examples]
    weights[slots, torch.arange(len(slots), device=slots.device)] = factors

    def product(total: Tensor, rows: Tensor) -> None:
        total += (weights @ rows).view_as(total)

    return product
