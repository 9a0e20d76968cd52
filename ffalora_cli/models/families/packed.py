"""Runs BERT-like encoders without padding: tokens end to end, examples sorted by length.

Linear layers see ``[tokens, d]``; attention and per-example factors work on groups of examples of
equal length, so nothing is padded, no mask exists, and no example can touch another. The last
layer computes only the row that the head reads (exact: no other row reaches the logits). The
layers' own modules are called, so the weights are the unmodified model's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ffalora_cli.adapters.layout import Layout
from ffalora_cli.adapters.sites import AdaptedLinear
from ffalora_cli.models.families import short_attention

FAMILIES = ("bert", "roberta", "xlm-roberta")


def supports(model: nn.Module) -> bool:
    """Whether this forward computes what the model's own forward computes."""
    config = getattr(model, "config", None)
    return (
        getattr(config, "model_type", None) in FAMILIES
        and getattr(config, "position_embedding_type", "absolute") == "absolute"
        and not getattr(config, "is_decoder", False)
    )


@dataclass(frozen=True)
class Packed:
    """Rows of a micro-batch laid out end to end; no shape depends on a value."""

    ids: Tensor  # int64 [rows], as are ``types`` and ``positions`` (from 0 in every example)
    types: Tensor  # segment ids
    positions: Tensor
    first: Tensor  # int64 [head rows], the row that the head reads of each example
    layout: Layout  # of the rows
    heads: Layout  # of the head rows

    @staticmethod
    def of(ids: Tensor, types: Tensor | None, layout: Layout) -> Packed:
        """Examples laid out, on the CPU.

        Args:
            ids: int64 [tokens], the examples end to end.
            types: int64 [tokens] segment ids, or None.
            layout: of these examples.
        """
        heads, starts = layout.heads(), layout.starts
        tokens = torch.from_numpy(np.flatnonzero(layout.owner >= 0))
        owners = layout.owner[layout.owner >= 0]
        first = np.zeros(len(heads.owner), np.int64)  # row 0 stands for what is nobody's
        first[: len(starts)] = starts
        empty = torch.zeros(len(layout.owner), dtype=torch.int64)
        return Packed(
            empty.index_copy(0, tokens, ids),
            empty if types is None else empty.index_copy(0, tokens, types),
            empty.index_copy(0, tokens, tokens - torch.from_numpy(starts[owners])),
            torch.from_numpy(first),
            layout,
            heads,
        )

    def to(self, device: torch.device) -> Packed:
        """The same on a device."""
        moved = (t.to(device) for t in (self.ids, self.types, self.positions, self.first))
        keys = self.layout.keys
        layout = replace(self.layout, keys=None if keys is None else keys.to(device))
        return Packed(*moved, layout, self.heads)


def outputs(model: nn.Module, inputs: Packed) -> Tensor:
    """Outputs ``[examples, width]`` of a supported model with sites swapped in.

    Factors come from the model's context.
    """
    encoder = getattr(model, model.base_model_prefix)
    layout, heads = inputs.layout, inputs.heads
    x = _embed(encoder.embeddings, inputs.ids, inputs.types, inputs.positions)  # [rows, d]
    layers = encoder.encoder.layer
    for layer in layers[:-1]:
        x = _layer(layer, x, x, layout, layout)
    x = _layer(layers[-1], x, x.index_select(0, inputs.first), layout, heads)
    x = x[: heads.examples, None]  # [examples, 1, d]
    scores: Tensor = model.classifier(x if encoder.pooler is None else encoder.pooler(x))
    return scores


def _embed(embeddings: nn.Module, ids: Tensor, types: Tensor, positions: Tensor) -> Tensor:
    """Word, position and segment embeddings ``[rows, d]``; RoBERTa counts from 2."""
    offset = embeddings.position_embeddings.padding_idx
    if offset is not None:
        positions = positions + offset + 1
    x = embeddings.word_embeddings(ids) + embeddings.token_type_embeddings(types)
    x = x + embeddings.position_embeddings(positions)
    return embeddings.LayerNorm(x)


def _layer(layer: nn.Module, x: Tensor, queries: Tensor, layout: Layout, wanted: Layout) -> Tensor:
    """One encoder layer: rows ``x`` in, the rows that are asked for out.

    ``queries`` are the rows of ``x`` that are wanted (in the last layer only the head's), and
    ``wanted`` is their layout.
    """
    attention = layer.attention.self
    q = site(attention.query, queries, wanted)
    k = site(attention.key, x, layout)
    v = site(attention.value, x, layout)
    context = _attend(q, k, v, attention.num_attention_heads, wanted, layout)
    out = layer.attention.output
    x = out.LayerNorm(site(out.dense, context, wanted) + queries)
    hidden = layer.intermediate.intermediate_act_fn(site(layer.intermediate.dense, x, wanted))
    return layer.output.LayerNorm(site(layer.output.dense, hidden, wanted) + x)


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int, wanted: Layout, layout: Layout) -> Tensor:
    """Softmax attention within each example, block by block."""
    parts = []
    blocks = (_query_blocks(q, wanted, layout), layout.blocks(k), layout.blocks(v), layout.masks())
    for *rows, mask in zip(*blocks, strict=True):
        seen = None if mask is None else mask[:, None, None, :]
        cut = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in rows)
        out = attention(*cut, seen)  # [n, heads, tokens, head_dim]
        parts.append(out.transpose(1, 2).flatten(2))
    if wanted is not layout:
        parts = [torch.cat(parts)]
    return wanted.join(parts)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """``softmax(q k^T / sqrt(size)) v`` of ``[n, heads, tokens, size]``, the fastest way here.

    On a CPU never fused in bf16: torch's backward pass of that is several times slower.
    """
    if short_attention.suits(q, k):
        return short_attention.attend(q, k, v, mask, q.shape[-1] ** -0.5)
    wide = (q, k, v) if q.is_cuda else (q.float(), k.float(), v.float())
    out = nn.functional.scaled_dot_product_attention(*wide, attn_mask=mask)
    return out.to(q.dtype)


def _query_blocks(q: Tensor, wanted: Layout, layout: Layout) -> list[Tensor]:
    """Queries in blocks that match those of the keys."""
    blocks = wanted.blocks(q)
    return blocks if wanted is layout else list(blocks[0].split(layout.counts))


def site(module: nn.Module, x: Tensor, layout: Layout) -> Tensor:
    """A linear layer on rows ``[rows, d_in]``, with its adapter where it is a site."""
    if not isinstance(module, AdaptedLinear):
        return module(x)
    y = module.base(x)
    factors = module.factors()
    return y if factors is None else module.form.delta(x, factors, layout, module.scale, y)
