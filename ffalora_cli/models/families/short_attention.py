"""Attention of short sequences on a CPU, by batched products of whole score matrices.

torch's fused attention is made for long sequences: there it reads the scores once and keeps none.
At sentence length its bookkeeping is most of the time, and its backward pass in bf16 is several
times slower than in fp32. The scores of short sequences are small, so they are kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LONGEST = {torch.float32: 48, torch.bfloat16: 256}  # tokens, by dtype; beyond, fused is faster


def suits(q: Tensor, k: Tensor) -> bool:
    """Whether queries and keys ``[n, heads, tokens, size]`` are better off here."""
    return not q.is_cuda and max(q.shape[2], k.shape[2]) <= LONGEST.get(q.dtype, 0)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """``softmax(scale * q k^T) v``.

    Args:
        q: ``[n, heads, queries, size]``, any strides.
        k: ``[n, heads, tokens, size]``.
        v: ``[n, heads, tokens, size]``.
        mask: bool, broadcast to ``[n, heads, queries, tokens]``, True for keys that are seen; None:
            all are.
        scale: of the scores.

    Returns:
        ``[n, heads, queries, size]``.
    """
    out: Tensor = _ShortAttention.apply(q, k, v, mask, scale)
    return out


class _ShortAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float
    ) -> Tensor:
        shape = q.shape
        q, k, v = (x.reshape(-1, *x.shape[2:]) for x in (q, k, v))  # [n * heads, tokens, size]
        scores = torch.bmm(q, k.transpose(1, 2)).mul_(scale)
        if mask is not None:
            scores.view(*shape[:2], *scores.shape[1:]).masked_fill_(~mask, float("-inf"))
        weights = scores.softmax(-1)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale, ctx.shape = scale, shape
        return torch.bmm(weights, v).view(shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        grad = grads[0].reshape(q.shape)
        to_scores = torch._softmax_backward_data(
            torch.bmm(grad, v.transpose(1, 2)), weights, -1, weights.dtype
        ).mul_(ctx.scale)
        products = ((to_scores, k), (to_scores.transpose(1, 2), q), (weights.transpose(1, 2), grad))
        gradients = [
            torch.bmm(*product).view(*ctx.shape[:2], -1, ctx.shape[3]) if needed else None
            for needed, product in zip(ctx.needs_input_grad, products, strict=False)
        ]  # of q, k and v
        return (*gradients, None, None)
