"""Hands sites the factors of the forward pass under way, and multiplies by them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ffalora_cli.adapters.ghost import Ghost
from ffalora_cli.adapters.layout import Layout

Factor = Tensor | Ghost
"""One factor in a forward pass: common ``[m, k]``, one copy an example ``[examples, m, k]``, or a
the clients' stack with ghost norms (``adapters.ghost``)."""


class Context:
    """Factors of the forward pass under way; one object shared by all sites of a model."""

    def __init__(self) -> None:
        self.values: dict[str, Factor] = {}
        self.dropout: Callable[[str, Tensor], Tensor] | None = None
        self.layout: Layout | None = None  # of rows end to end; None: the input's shape says it
        self.attended = False  # whether an attention has asked for a layout


class _RowPerExample(torch.Tensor):
    """Output of a site called with one common row block but one factor copy an example.

    DeBERTa projects its relative-position table once (batch 1) and then repeats it for every
    example. With per-example factors the projection already has a row block an example, in the
    order that the repeat would give, so ``repeat`` has nothing left to do.
    """

    def repeat(self, *sizes: int) -> Tensor:  # type: ignore[override]
        """The plain tensor: already one block an example."""
        return self.as_subclass(torch.Tensor)


def times(
    x: Tensor, w: Factor, layout: Layout, y: Tensor | None = None, scale: float = 1.0
) -> Tensor:
    """``scale * x w^T``, or ``y + scale * x w^T``.

    Args:
        x: rows ``[rows, k]``.
        w: a factor of shape ``[m, k]``.
        layout: of the rows.
        y: rows ``[rows, m]``; only then is there a scale.
        scale: of the product.
    """
    if isinstance(w, Ghost):
        product = w.times(x, layout)
        return product if y is None else torch.add(y, product, alpha=scale)
    w = w.to(x.dtype)
    if w.dim() == 2:
        return x @ w.t() if y is None else torch.addmm(y, x, w.t(), alpha=scale)
    copies = w.transpose(1, 2).split(layout.counts)
    if y is None:
        blocks = zip(layout.blocks(x), copies, strict=True)
        return layout.join([torch.bmm(rows, c) for rows, c in blocks])
    triples = zip(layout.blocks(y), layout.blocks(x), copies, strict=True)
    return layout.join([torch.baddbmm(b, rows, c, alpha=scale) for b, rows, c in triples], y)


def _copies(factor: Factor) -> int:
    """Examples that a factor has copies for; 1 if it is common."""
    if isinstance(factor, Ghost):
        return len(factor.tape.slots)
    return factor.shape[0] if factor.dim() == 3 else 1
