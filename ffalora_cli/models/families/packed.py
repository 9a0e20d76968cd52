"""Runs a model without padding: the tokens of all examples end to end, in one row.

Linear layers and norms see ``[1, rows, d]``; attention (``families.attention``) and per-example
factors work on blocks of examples. The modules called are the unmodified model's. Where a head
reads one row of each example (of a causal model the last one), no other row leaves the base model,
and in layers like BERT's no other passes what follows the last attention (exact: no other row
reaches the outputs).
"""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ffalora_cli.adapters.context import Context
from ffalora_cli.adapters.layout import Layout
from ffalora_cli.models.families import attention
from ffalora_cli.tasks.targets import BatchTargets

TAILS = (".attention.output", ".sa_layer_norm")
"""Modules that take the last attention's rows, and the residual with them, in layers where nothing
but their output is read afterwards: BERT's and all that are made like it, DistilBERT's."""
QUERIES = ".attention.self"
"""Where BERT and all that are made like it ask: in the last layer, for the head's rows alone."""


@dataclass(frozen=True)
class Packed:
    """Rows of a micro-batch laid out end to end; no shape depends on a value."""

    ids: Tensor  # int64 [rows], as are ``types`` and ``positions`` (from 0 in every example)
    types: Tensor  # segment ids
    positions: Tensor
    first: Tensor  # int64 [head rows], the first row of each example, which an encoder's head reads
    last: Tensor  # int64 [head rows], the last one, which a causal model's head reads
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
        held = np.bincount(owners, minlength=len(starts))  # tokens of each example
        last = first.copy()
        last[: len(starts)] += np.maximum(held, 1) - 1
        empty = torch.zeros(len(layout.owner), dtype=torch.int64)
        return Packed(
            empty.index_copy(0, tokens, ids),
            empty if types is None else empty.index_copy(0, tokens, types),
            empty.index_copy(0, tokens, tokens - torch.from_numpy(starts[owners])),
            torch.from_numpy(first),
            torch.from_numpy(last),
            layout,
            heads,
        )

    def rows(self, targets: BatchTargets) -> Tensor:
        """The row of each target's token, int64 [targets]."""
        return self.first[targets.owner] + targets.positions

    def to(self, device: torch.device) -> Packed:
        """The same on a device."""
        tensors = (self.ids, self.types, self.positions, self.first, self.last)
        moved = (t.to(device) for t in tensors)
        keys = self.layout.keys
        layout = replace(self.layout, keys=None if keys is None else keys.to(device))
        return Packed(*moved, layout, self.heads)


def outputs(model: Any, context: Context, inputs: Packed, one_row: bool) -> Tensor:
    """Outputs of a model in which ``attention.install`` has put the context.

    Args:
        model: a transformer, with or without a head.
        context: has the factors.
        inputs: of a micro-batch.
        one_row: whether the head reads one row of each example: its first, its last, their mean.

    Returns:
        ``[examples, width]``, or of every row ``[rows, width]``.
    """
    if model.config._attn_implementation != attention.NAME:
        model.set_attn_implementation(attention.NAME)
    base = getattr(model, model.base_model_prefix, model)
    given = arguments = _arguments(base, inputs)
    with ExitStack() as passing:
        if one_row:
            causal = any(getattr(part, "is_causal", False) for part in base.modules())
            _read_one_row(passing, base, context, inputs, causal)
            if causal:  # its head looks for the last token of what it is given: it is given one
                given = {"input_ids": inputs.ids.new_zeros(inputs.layout.examples, 1)}
                swapped = base.register_forward_pre_hook(
                    lambda *_: ((), arguments), with_kwargs=True
                )
                passing.callback(swapped.remove)
        context.layout = inputs.layout
        passing.callback(setattr, context, "layout", None)
        found: Tensor = model(**given)[0]
    return found if one_row else found.squeeze(0)


def _arguments(base: Any, inputs: Packed) -> dict[str, Any]:
    """What the family's forward takes; RoBERTa counts positions from after its padding's."""
    tables = {name.rpartition(".")[2]: module for name, module in base.named_modules()}
    unused = getattr(tables.get("position_embeddings"), "padding_idx", None)
    positions = inputs.positions if unused is None else inputs.positions + unused + 1
    given = {"position_ids": positions[None], "use_cache": False}
    if "token_type_embeddings" in tables:
        given["token_type_ids"] = inputs.types[None]
    taken = inspect.signature(base.forward).parameters
    kept = {name: value for name, value in given.items() if name in taken}
    return {"input_ids": inputs.ids[None], **kept}


def _read_one_row(
    passing: ExitStack, base: Any, context: Context, inputs: Packed, causal: bool
) -> None:
    """Give pooler and head one row an example, ``[examples, 1, d]``, while ``passing`` lasts."""
    mean = getattr(base.config, "classifier_pooling", None) == "mean"
    named = [] if mean or causal else list(base.named_modules())
    tails = [module for name, module in named if name.endswith(TAILS)]
    queries = [module for name, module in named if name.endswith(QUERIES)]

    def narrow(module: nn.Module, rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        there = int(context.layout is inputs.heads)  # the attention's output, where it was asked so
        context.layout = inputs.heads
        return (*rows[:there], *(x.index_select(1, inputs.first) for x in rows[there:]))

    def hand_over(module: nn.Module, _: Any, output: Any) -> Any:
        x = output[0].squeeze(0)  # [rows, d], or of the heads' rows alone
        if mean:
            x = _means(x, inputs.layout)
        elif not tails:
            x = x.index_select(0, inputs.last if causal else inputs.first)
        context.layout = None  # of what comes now, the shape says it
        output["last_hidden_state"] = x[: inputs.layout.examples, None]
        return output

    passing.callback(getattr(base, "encoder", base).register_forward_hook(hand_over).remove)
    for tail in tails[-1:]:
        passing.callback(tail.register_forward_pre_hook(narrow).remove)
    for last in queries[-1:]:
        last.forward = partial(attention.of_heads, last, first=inputs.first, heads=inputs.heads)
        passing.callback(delattr, last, "forward")


def _means(x: Tensor, layout: Layout) -> Tensor:
    """Mean of each example's tokens, ``[examples, d]`` of rows ``[rows, d]``."""
    found = []
    for block, mask in zip(layout.blocks(x), layout.masks(), strict=True):
        weights = block.new_ones(block.shape[:2]) if mask is None else mask.to(block)
        found.append((block * weights[:, :, None]).sum(1) / weights.sum(1, keepdim=True))
    return torch.cat(found)
