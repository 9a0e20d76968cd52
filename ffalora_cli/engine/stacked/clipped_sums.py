"""Clips per-example gradients, adds them to their clients' sums, and counts what was clipped."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ffalora_cli.adapters.ghost import Tape
from ffalora_cli.engine.job import ExamplePrivacy
from ffalora_cli.engine.precision import exact_products
from ffalora_cli.privacy.mechanism.clipping import SLACK, clip_rule, factors, was_cut
from ffalora_cli.types import Stack

SEAMS = ("add_clipped",)
"""What an audit may replace; whoever calls it looks it up in this module."""
FEW_CLIENTS = 16  # so many are summed by one product, on a CPU more by index_add
LOSS, ROWS, CLIPPED, NONFINITE, UNITS = range(5)  # columns of what is counted


@dataclass(frozen=True)
class Whole:
    """That what is added are units of several rows, each the sum of its clipped rows."""

    rows: Tensor  # float64 [units]
    cut: Tensor  # bool [units], whether one of its rows was


def new_counts(length: int, device: torch.device) -> Tensor:
    """Nothing counted yet, float64 ``[length, 5]``."""
    return torch.zeros(length, 5, device=device, dtype=torch.float64)


@exact_products()
def add_clipped(
    privacy: ExamplePrivacy | None,
    slots: Tensor,
    losses: Tensor,
    grads: Stack,
    tape: Tape,
    total: Stack,
    counts: Tensor,
    real: Tensor | None = None,
    whole: Whole | None = None,
) -> None:
    """Clip every example's gradient by the job's rule and add it to its client's sum, in place.

    An example is a row or, at the end of a unit of several rows, the unit (``unit_sums``). A
    non-finite example is replaced, never multiplied by zero (0 × NaN would spread in a product).

    Args:
        privacy: gives the clip; None: nothing is clipped.
        slots: int64 [examples], client of each example.
        losses: ``[examples]``.
        grads: per-example gradients ``[examples, ...]`` by name.
        tape: the tensors whose gradients were not materialised, if any.
        total: ``[clients, ...]`` by name.
        counts: float64 ``[clients, 5]``: loss, rows, then units clipped, non-finite, seen.
        real: bool [examples], False for what only fills a shape up and counts as nothing.
        whole: where the examples are units of several rows.
    """
    names = [*grads, *tape.entries]
    norms = [grad.flatten(1).square().sum(1) for grad in grads.values()]
    norms += [tape.squares(name) for name in tape.entries]
    squares = torch.stack(norms, 1)  # [examples, tensors]
    seen = torch.ones_like(losses, dtype=torch.bool) if real is None else real
    finite = torch.isfinite(squares.sum(1)) & torch.isfinite(losses) & seen
    scale = finite[:, None].float().expand_as(squares)
    if privacy is not None:
        rule = clip_rule(privacy.clip, privacy.max_grad_norm, names)
        scale = torch.where(finite[:, None], factors(squares, rule), 0.0)
    # Looking at the flags would make a GPU wait, so there the rows are always replaced.
    clean = losses.device.type == "cpu" and bool(finite.all())
    for column, name in enumerate(names):
        weights = scale[:, column]
        if name in grads:
            rows = grads[name].flatten(1)
            rows = rows if clean else torch.where(finite[:, None], rows, 0.0)
            _add_rows(total[name], slots, weights, rows)
        else:
            total[name] += tape.sums(name, weights, clean)
    cut, rows_seen = was_cut(scale), seen
    if whole is not None:
        cut, rows_seen = cut | whole.cut, whole.rows
    columns = [torch.where(finite, losses, 0.0), rows_seen, finite & cut, seen & ~finite, seen]
    counted = torch.stack([column.double() for column in columns], 1)  # [examples, 5]
    _add_rows(counts, slots, torch.ones_like(counted[:, 0]), counted)


def cut_whole(total: Tensor, norm: float) -> None:
    """Cut every client's gradient ``[clients, P]`` to a norm in place, as ``clip_grad_norm_``."""
    total *= (norm / (total.norm(dim=1, keepdim=True) + SLACK)).clamp(max=1.0)


def _add_rows(total: Tensor, slots: Tensor, weights: Tensor, rows: Tensor) -> None:
    """``total [clients, ...]`` plus every client's rows ``[examples, size]`` times weights.

    On a GPU always by a product: additions by atomics come in any order.
    """
    clients = len(total)
    if clients > FEW_CLIENTS and not rows.is_cuda:
        total.index_add_(0, slots, (rows * weights[:, None]).view(-1, *total.shape[1:]))
        return
    here = slots == torch.arange(clients, device=slots.device)[:, None]  # [clients, examples]
    total += (torch.where(here, weights, 0.0) @ rows).view_as(total)
