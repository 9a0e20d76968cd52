"""Recomputes what a layer keeps for its backward pass, when that comes (gradient checkpointing).

Chen et al. 2016 (arXiv 1604.06174): of every layer but the last only the input is kept, and its
forward pass is done once more: about a third more work, the same bits. The last layer's backward
pass comes first: there recomputing would save nothing. So what ``families.packed`` does to the last
layer alone, for one forward pass, is never wanted again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ffalora_cli.adapters.context import Context


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The model's layers in order, as transformers marks them for this; none in ALBERT, say."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    def marked(module: nn.Module) -> list[nn.Module]:
        return [m for m in module.modules() if isinstance(m, GradientCheckpointingLayer)]

    return [layer for layer in marked(model) if len(marked(layer)) == 1]  # Swin's stages have them


def install(model: Any, context: Context) -> None:
    """Let every layer but the last recompute, in passes that will have a backward pass.

    Nothing is kept for later tokens unless asked for: a second pass would keep it twice.
    """
    model.config.use_cache = False
    for layer in layers_of(model)[:-1]:
        vars(layer)["forward"] = partial(_recomputed, layer.forward, context)


def _recomputed(forward: Callable[..., Any], context: Context, *args: Any, **kwargs: Any) -> Any:
    """``forward``, whose second pass finds the context as the first one did."""
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    passes = (nullcontext(), _as_it_was(context, vars(context).copy()))
    # Nothing draws from torch's generator here: dropout has masks of its own keys.
    how: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    return checkpoint(forward, *args, context_fn=lambda: passes, **how, **kwargs)


@contextmanager
def _as_it_was(context: Context, during: Mapping[str, Any]) -> Iterator[None]:
    """A pass with an earlier state of the context; on a GPU it is in a thread without any mode."""
    now = vars(context).copy()
    vars(context).update(during)
    try:
        with context.model_dropout or nullcontext():
            yield
    finally:  # also where the second pass ends as soon as nothing more is wanted of it
        vars(context).update(now)
