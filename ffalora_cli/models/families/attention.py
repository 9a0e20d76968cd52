"""Attention within each example of rows that lie end to end, registered with transformers.

A model that takes its attention from ``AttentionInterface`` calls ``attend`` where its
configuration names it. Nothing else of a family matters: scaling, grouped heads, causality, sliding
windows and soft caps come with the call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ffalora_cli.adapters.context import Context
from ffalora_cli.adapters.layout import Layout
from ffalora_cli.models.families import short_attention

NAME = "ffalora_rows"
"""Of the attention in transformers' registry and in a model's configuration."""


def install(model: nn.Module, context: Context) -> None:
    """Let every module of ``model`` find the layout of the forward pass under way."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    for module in model.modules():
        vars(module)["context"] = context


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Softmax attention, block by block.

    Args:
        module: whose attention it is; its ``context`` has the layout.
        query: ``[1, heads, rows, head_dim]``; keys and values may have fewer heads.
        key: as the query.
        value: as the query.
        attention_mask: not read: the layout says which rows are an example's.
        scaling: of the products; None: one over the root of ``head_dim``.
        is_causal: None: as the module says.
        sliding_window: least distance of two tokens that do not see each other.
        softcap: bound of the scores, approached smoothly.
        others: what a family hands to every attention function.

    Returns:
        ``[1, rows, heads, head_dim]``, and no weights.
    """
    context: Context = module.context
    layout = context.layout
    assert layout is not None, "a padded pass: Network.outputs names the model's own attention"
    context.attended = True
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    parts = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))  # [rows, heads, head_dim]
    blocks = [layout.blocks(x) for x in parts]
    outs = []
    for q, k, v, keys in zip(*blocks, layout.masks(), strict=True):
        mask = _mask(q, keys, causal, sliding_window)
        before = causal and (sliding_window is None or sliding_window >= q.shape[1])
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [n, heads, tokens, head_dim]
        out = _attention(q, k, v, mask, scaling, softcap, before)
        outs.append(out.transpose(1, 2).flatten(2))
    return layout.join(outs)[None].unflatten(-1, (query.shape[1], -1)), None


def of_heads(
    module: Any, x: Tensor, *, first: Tensor, heads: Layout, **others: Any
) -> tuple[Tensor, None]:
    """What a BERT's self-attention gives the rows that a head reads: no other row asks.

    Args:
        module: with ``query``, ``key``, ``value`` and ``scaling``; causal it is not.
        x: ``[1, rows, d]``.
        first: int64 [head rows], their places in ``x``.
        heads: their layout, which is the context's from here on.
        others: what the family hands to every attention.

    Returns:
        ``[1, head rows, d]``, and no weights.
    """
    context: Context = module.context
    layout, key, value = context.layout, module.key(x), module.value(x)
    assert layout is not None
    context.attended, context.layout = True, heads
    query = module.query(x.index_select(1, first))
    blocks = (
        heads.blocks(query.squeeze(0))[0].split(layout.counts),  # [n, 1, d]
        layout.blocks(key.squeeze(0)),
        layout.blocks(value.squeeze(0)),
        layout.masks(),
    )
    outs = []
    for *parts, keys in zip(*blocks, strict=True):
        seen = None if keys is None else keys[:, None, None, :]
        size = module.attention_head_size
        q, k, v = (part.unflatten(-1, (-1, size)).transpose(1, 2) for part in parts)
        outs.append(_attention(q, k, v, seen, module.scaling, None).transpose(1, 2).flatten(2))
    return heads.join([torch.cat(outs)])[None], None


def _mask(q: Tensor, keys: Tensor | None, causal: bool, window: int | None) -> Tensor | None:
    """What each query of a block sees, to be broadcast to ``[n, heads, tokens, tokens]``.

    A row that is no token sees itself at least, so that its softmax is finite. Behind the last
    token of an example there are only such rows: causality keeps them apart without ``keys``.
    """
    tokens = q.shape[1]
    if not causal and (window is None or window >= tokens):
        return None if keys is None else keys[:, None, None, :]
    place = torch.arange(tokens, device=q.device)
    back = place[:, None] - place  # how far a key lies behind the query
    seen = back >= 0 if causal else back == back
    if window is not None:
        seen = seen & (back.abs() < window)
    if causal or keys is None:
        return seen
    return (seen & keys[:, None, None, :]) | (back == 0)


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float | None,
    before: bool = False,
) -> Tensor:
    """``[n, heads, tokens, head_dim]`` of dense blocks, the fastest way here.

    On a CPU fused only in fp32: torch's backward pass of that is several times slower in bf16.
    Where the mask hides what comes after a token and nothing else (``before``), fused attention
    leaves that half out instead of computing and hiding it.
    """
    groups, dtype = q.shape[1] // k.shape[1], q.dtype
    scaling = q.shape[-1] ** -0.5 if scaling is None else scaling
    if groups > 1:
        k, v = (x.repeat_interleave(groups, 1) for x in (k, v))
    if softcap is not None:
        scores = softcap * torch.tanh(q @ k.transpose(2, 3) * (scaling / softcap))
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return scores.softmax(-1) @ v
    if short_attention.suits(q, k):
        return short_attention.attend(q, k, v, mask, scaling)
    if not q.is_cuda:
        q, k, v = q.float(), k.float(), v.float()
    seen = None if before else mask
    out = nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=seen, is_causal=before, scale=scaling
    )
    return out.to(dtype)
