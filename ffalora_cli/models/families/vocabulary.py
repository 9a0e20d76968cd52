"""Runs the last step of a language model, from its last hidden rows to the vocabulary's scores.

The model's own forward does it, with its decoder answered by given rows, so what a family does
there (soft caps, scales) is done. The scores of all rows at once would be by far the largest tensor
of a step: they are made in chunks, and none is kept for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

CHUNK = 256  # rows whose scores are in memory at once

Each = Callable[[Tensor, Tensor], Tensor]
"""Scores ``[rows, vocabulary]`` and targets ``[rows]`` to one number a row."""


def part_read(model: Any, reads: str) -> Any:
    """What is run of a model for a task that ``reads`` so: its decoder alone, or all of it."""
    return model.get_decoder() if reads == "vocabulary" else model


def chunks(rows: Tensor) -> Iterator[slice]:
    """Few rows at a time of ``[rows, ...]``."""
    return (slice(start, start + CHUNK) for start in range(0, len(rows), CHUNK))


def scores(model: Any, hidden: Tensor) -> Tensor:
    """The vocabulary's scores, fp32 ``[rows, vocabulary]``, of last hidden rows ``[rows, d]``."""
    from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

    decoder = model.get_decoder()
    answered = BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden[None])
    decoder.forward = lambda *args, **kwargs: answered
    try:
        found: Tensor = model(inputs_embeds=hidden[None], use_cache=False).logits
    finally:
        del decoder.forward
    return found.squeeze(0).float()


def losses(model: Any, hidden: Tensor, targets: Tensor, each: Each) -> Tensor:
    """``each`` of the scores of hidden rows ``[rows, d]``, fp32 ``[rows]``; differentiable."""
    found: Tensor = _InChunks.apply(hidden, model, targets, each)
    return found


class _InChunks(torch.autograd.Function):
    """The gradient of a row's loss to that row is taken with the loss, while its scores are there.

    No row's loss depends on another row, so the backward pass only has to scale.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, model: Any, targets: Tensor, each: Each) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        found = hidden.new_empty(len(hidden), dtype=torch.float32)
        slopes = torch.empty_like(hidden) if wanted else None
        for part in chunks(hidden):
            with torch.set_grad_enabled(wanted):
                rows = hidden[part].detach().requires_grad_(wanted)
                values = each(scores(model, rows), targets[part])
                if slopes is not None:
                    (slopes[part],) = torch.autograd.grad(values.sum(), rows)
            found[part] = values.detach()
        ctx.slopes = slopes
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return (ctx.slopes * grads[0][:, None]).to(ctx.slopes.dtype), None, None, None
