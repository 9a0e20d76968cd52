"""Forward without padding for BERT-like encoders: tokens end to end, examples sorted by length.

Linear layers see ``[tokens, d]``; attention and per-example factors work on groups of examples of
equal length, so nothing is padded, no mask exists, and no example can touch another. The last
layer computes only the row that the head reads (exact: no other row reaches the logits). The
layers' own modules are called, so the weights are the unmodified model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ffalora_cli.models.adapters import AdaptedLinear
from ffalora_cli.types import TOKEN_BUCKET

FAMILIES = ("bert", "roberta", "xlm-roberta")


ROW_BUCKET = 16  # head rows of the last layer are rounded up to a multiple of this


@dataclass(frozen=True)
class Groups:
    """Runs of examples of equal length, in the order of the packed tokens.

    ``padding`` rows follow the last run: oneDNN keeps a compiled primitive of about a megabyte for
    every matrix shape it meets, so the number of shapes has to be small. They pass through the
    linear layers only and reach no result.
    """

    counts: tuple[int, ...]  # examples in each run
    lengths: tuple[int, ...]  # tokens of each example of the run
    padding: int

    @staticmethod
    def of(lengths: np.ndarray) -> Groups:
        """Runs of equal values in ``lengths`` (int [examples], sorted)."""
        starts = np.flatnonzero(np.r_[True, lengths[1:] != lengths[:-1]])
        counts = np.diff(np.r_[starts, len(lengths)])
        runs = tuple(int(lengths[s]) for s in starts)
        return Groups(tuple(map(int, counts)), runs, -int(lengths.sum()) % TOKEN_BUCKET)

    @property
    def tokens(self) -> list[int]:
        """Tokens of each run."""
        return [n * length for n, length in zip(self.counts, self.lengths, strict=True)]

    @property
    def rows(self) -> Groups:
        """The same runs with one row an example."""
        padding = -sum(self.counts) % ROW_BUCKET
        return Groups(self.counts, (1,) * len(self.counts), padding)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The rows of each run; padding is left out."""
        return x[: x.shape[0] - self.padding].split(self.tokens)

    def join(self, runs: list[Tensor], padding: Tensor | None = None) -> Tensor:
        """Rows of all runs end to end, and ``padding`` (or zeros) after them."""
        if self.padding:
            tail = runs[0].new_zeros(self.padding, runs[0].shape[1])
            runs = [*runs, tail if padding is None else padding]
        return torch.cat(runs)


def supports(model: nn.Module) -> bool:
    """Whether this forward computes what the model's own forward computes."""
    config = getattr(model, "config", None)
    return (
        getattr(config, "model_type", None) in FAMILIES
        and getattr(config, "position_embedding_type", "absolute") == "absolute"
        and not getattr(config, "is_decoder", False)
    )


def logits(model: nn.Module, ids: Tensor, types: Tensor | None, lengths: np.ndarray) -> Tensor:
    """Class scores of a packed micro-batch; factors come from the model's context.

    Args:
        model: a supported classifier with sites swapped in.
        ids: int64 [tokens], the examples end to end, sorted by length.
        types: int64 [tokens] segment ids, or None.
        lengths: int [examples], in the same order.

    Returns:
        ``[examples, classes]``.
    """
    encoder = getattr(model, model.base_model_prefix)
    groups = Groups.of(lengths)
    first = np.zeros(len(lengths) + groups.rows.padding, np.int64)  # row 0 stands for padding
    first[: len(lengths)] = np.r_[0, np.cumsum(lengths)[:-1]]
    x = _embed(encoder.embeddings, ids, types, lengths, groups.padding)  # [rows, d]
    layers = encoder.encoder.layer
    for layer in layers[:-1]:
        x = _layer(layer, x, None, groups)
    heads = torch.from_numpy(first).to(ids.device)
    x = _layer(layers[-1], x, heads, groups)[: len(lengths), None]  # [examples, 1, d]
    return model.classifier(x if encoder.pooler is None else encoder.pooler(x))


def _embed(
    embeddings: nn.Module, ids: Tensor, types: Tensor | None, lengths: np.ndarray, padding: int
) -> Tensor:
    """Word, position and segment embeddings ``[tokens + padding, d]``; RoBERTa counts from 2."""
    starts = np.repeat(np.r_[0, np.cumsum(lengths)[:-1]], lengths)
    positions = torch.from_numpy(np.arange(len(starts)) - starts).to(ids.device)
    offset = embeddings.position_embeddings.padding_idx
    if offset is not None:
        positions = positions + offset + 1
    if types is None:
        types = torch.zeros_like(ids)
    ids, types, positions = (nn.functional.pad(t, (0, padding)) for t in (ids, types, positions))
    x = embeddings.word_embeddings(ids) + embeddings.token_type_embeddings(types)
    x = x + embeddings.position_embeddings(positions)
    return embeddings.LayerNorm(x)


def _layer(layer: nn.Module, x: Tensor, first: Tensor | None, groups: Groups) -> Tensor:
    """One encoder layer; with ``first`` only those rows come out ``[examples, d]``."""
    attention = layer.attention.self
    queries = x if first is None else x.index_select(0, first)
    query_groups = groups if first is None else groups.rows
    q = site(attention.query, queries, query_groups)
    k = site(attention.key, x, groups)
    v = site(attention.value, x, groups)
    context = _attend(q, k, v, attention.num_attention_heads, query_groups, groups)
    out = layer.attention.output
    x = out.LayerNorm(site(out.dense, context, query_groups) + queries)
    hidden = layer.intermediate.intermediate_act_fn(site(layer.intermediate.dense, x, query_groups))
    return layer.output.LayerNorm(site(layer.output.dense, hidden, query_groups) + x)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, heads: int, query_groups: Groups, groups: Groups
) -> Tensor:
    """Softmax attention within each example, run by run of equal length.

    On a CPU always in fp32: torch's bf16 attention backward is several times slower there.
    """
    dtype = q.dtype
    if not q.is_cuda:
        q, k, v = q.float(), k.float(), v.float()
    parts = []
    runs = zip(
        query_groups.split(q),
        groups.split(k),
        groups.split(v),
        groups.counts,
        query_groups.lengths,
        groups.lengths,
        strict=True,
    )
    for q_run, k_run, v_run, n, rows, length in runs:
        out = nn.functional.scaled_dot_product_attention(
            q_run.view(n, rows, heads, -1).transpose(1, 2),
            k_run.view(n, length, heads, -1).transpose(1, 2),
            v_run.view(n, length, heads, -1).transpose(1, 2),
        )  # [n, heads, rows, head_dim]
        parts.append(out.transpose(1, 2).reshape(n * rows, -1))
    return query_groups.join(parts).to(dtype)


def site(module: nn.Module, x: Tensor, groups: Groups) -> Tensor:
    """A linear layer on packed rows, with its adapter where it is a site."""
    if not isinstance(module, AdaptedLinear):
        return module(x)
    y = module.base(x)
    values = module.context.values
    a = values.get(f"{module.site}.lora_a")
    b = values.get(f"{module.site}.lora_b")
    if a is None or b is None:
        return y
    h = _times(None, x, a.to(x.dtype), groups, 1.0)  # [tokens, rank]
    return _times(y, h, b.to(x.dtype), groups, module.scale)


def _times(y: Tensor | None, x: Tensor, w: Tensor, groups: Groups, scale: float) -> Tensor:
    """``y + scale * x @ w^T``, w common ``[m, k]`` or one copy an example ``[examples, m, k]``."""
    if w.dim() == 2:
        return x @ w.t() if y is None else torch.addmm(y, x, w.t(), alpha=scale)
    parts = []
    ys: Sequence[Tensor | None] = [None] * len(groups.counts) if y is None else groups.split(y)
    runs = zip(ys, groups.split(x), w.split(groups.counts), groups.counts, strict=True)
    for y_run, x_run, w_run, n in runs:
        rows = x_run.view(n, -1, x.shape[-1])
        if y_run is None:
            out = torch.bmm(rows, w_run.transpose(1, 2))
        else:
            out = torch.baddbmm(
                y_run.view(n, -1, w.shape[1]), rows, w_run.transpose(1, 2), alpha=scale
            )
        parts.append(out.reshape(-1, w.shape[1]))
    return groups.join(parts, None if y is None else y[y.shape[0] - groups.padding :])
