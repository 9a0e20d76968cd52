"""Hands sites the factors of the forward pass under way, and multiplies by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ffalora_cli.adapters.ghost import Ghost
from ffalora_cli.adapters.layout import Layout

Factor = Tensor | Ghost
"""One factor in a forward pass: common ``[m, k]``, one copy an example ``[examples, m, k]``, or
the clients' stack with ghost norms (``adapters.ghost``)."""


class Context:
    """Factors of the forward pass under way; one object shared by all sites of a model."""

    def __init__(self) -> None:
        self.values: dict[str, Factor] = {}
        self.dropout: Callable[[str, Tensor], Tensor] | None = None
        self.model_dropout: TorchFunctionMode | None = None  # around the frozen model's own passes
        self.dropped = 0  # places where the model dropped something in the pass under way
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
    """``scale * x w^T``, or ``y + scale * x w^T``, which is written to ``y``'s memory.

    Args:
        x: rows ``[rows, k]``.
        w: a factor of shape ``[m, k]``.
        layout: of the rows.
        y: rows ``[rows, m]``; nothing else may need its values.
        scale: of the product.
    """
    if isinstance(w, Ghost):
        product = w.times(x, layout)
        return scale * product if y is None else y.add(product, alpha=scale)
    w = w.to(x.dtype)
    if w.dim() == 3:
        y = x.new_zeros(len(x), w.shape[1]) if y is None else y
        added: Tensor = _AddProducts.apply(y, x, w, layout, scale)
        return added
    if y is None:
        product = x @ w.t()
        return product if scale == 1.0 else scale * product
    return torch.addmm(y, x, w.t(), alpha=scale)


class _AddProducts(torch.autograd.Function):
    """``y += scale * x w_e^T`` with every example's own w, class by class, on views.

    Its backward pass writes each gradient once, where it belongs: the blocks of ``x``'s and the
    copies of ``w``'s are views of one tensor each.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, w: Tensor, layout: Layout, scale: float
    ) -> Tensor:  # y [rows, m], x [rows, k], w [examples, m, k]
        ctx.mark_dirty(y)
        ctx.save_for_backward(x, w)
        ctx.layout, ctx.scale = layout, scale
        blocks = zip(
            layout.blocks(y),
            layout.blocks(x),
            w.transpose(1, 2).split(layout.counts),
            strict=True,
        )
        for out, rows, copies in blocks:
            out.baddbmm_(rows, copies, alpha=scale)
        return y

    @staticmethod
    def backward(
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        x, w = ctx.saved_tensors
        layout, scale = ctx.layout, ctx.scale
        to_y = layout.blocks(grads[0])
        to_x = to_w = None
        if ctx.needs_input_grad[1]:
            to_x = torch.zeros_like(x)
            for out, grad, copies in zip(
                layout.blocks(to_x), to_y, w.split(layout.counts), strict=True
            ):
                out.baddbmm_(grad, copies, alpha=scale)
        if ctx.needs_input_grad[2]:
            to_w = torch.empty_like(w)
            for out, grad, rows in zip(
                to_w.split(layout.counts), to_y, layout.blocks(x), strict=True
            ):
                out.baddbmm_(grad.transpose(1, 2), rows, beta=0, alpha=scale)
        return grads[0], to_x, to_w, None, None


def _copies(factor: Factor) -> int:
    """Examples that a factor has copies for; 1 if it is common."""
    if isinstance(factor, Ghost):
        return len(factor.tape.slots)
    return factor.shape[0] if factor.dim() == 3 else 1
