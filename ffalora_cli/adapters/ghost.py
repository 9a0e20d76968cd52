"""Ghost norms: clip per-example gradients that are never materialised (Bu et al. 2022).

For a linear map ``y = x W^T`` the gradient of example e is ``G_e = dY_e^T X_e``. All that clipping
needs is its norm and a weighted sum over examples, and both follow from ``X`` and ``dY``:

    ||G_e||^2 = <X_e X_e^T, dY_e dY_e^T>        (Gram matrices of a few tokens; Goodfellow 2015)
    sum_e f_e G_e = (f dY)^T X                  (one product a client)

``Ghost.times`` computes the product by an autograd function with a side effect: its backward pass
writes X and dY of every call on the micro-batch's ``Tape``, from which norms and sums are read once
``torch.autograd.grad`` has returned. Worth it where W is large against the tokens of an example
(``engine.stacked.cost`` decides); a copy of the factors for every example is the other way, with
the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ffalora_cli.adapters.layout import Layout
from ffalora_cli.types import Stack


@dataclass(frozen=True)
class ByClient:
    """Rows of a layout as one dense block a client; short clients are filled up with zeros."""

    index: Tensor  # int64 [clients, most], a row; 0 where none
    mask: Tensor  # bool [clients, most, 1]
    position: Tensor  # int64 [rows], of each row in the flattened block; 0 for padding
    real: Tensor  # bool [rows, 1]

    @staticmethod
    def of(owner: np.ndarray, slots: np.ndarray, clients: int, device: torch.device) -> ByClient:
        """Group rows by their example's client.

        Args:
            owner: int64 [rows], example of each row or -1.
            slots: int64 [examples], client of each example.
            clients: in the stack.
            device: of the rows.
        """
        real = owner >= 0
        rows = np.flatnonzero(real)
        client = slots[owner[rows]]
        order = np.argsort(client, kind="stable")
        sizes = np.bincount(client, minlength=clients)
        starts = np.cumsum(sizes) - sizes
        column = np.arange(len(rows)) - starts[client[order]]
        most = int(sizes.max(initial=1))
        index = np.zeros((clients, most), np.int64)
        index[client[order], column] = rows[order]
        position = np.zeros(len(owner), np.int64)
        position[rows[order]] = client[order] * most + column
        mask = (np.arange(most) < sizes[:, None])[:, :, None]
        tensors = (torch.from_numpy(part) for part in (index, mask, position, real[:, None]))
        return ByClient(*(tensor.to(device) for tensor in tensors))

    def gather(self, x: Tensor) -> Tensor:
        """Rows ``[rows, d]`` to ``[clients, most, d]``."""
        return torch.where(self.mask, x[self.index], 0)

    def scatter(self, y: Tensor) -> Tensor:
        """``[clients, most, d]`` to rows ``[rows, d]``; zeros for padding."""
        return torch.where(self.real, y.reshape(-1, y.shape[-1])[self.position], 0)


@dataclass(frozen=True)
class Entry:
    """Input and output gradient of one call of a layer."""

    x: Tensor  # [rows, k]
    grad: Tensor  # [rows, m]
    layout: Layout
    groups: ByClient


@dataclass
class Tape:
    """What one backward pass wrote down of every tensor that has ghost norms.

    Attributes:
        slots: int64 [examples], client of each example.
        clients: in the stacks.
        names: of these tensors.
        entries: calls of each of them, written by the backward pass.
    """

    slots: np.ndarray
    clients: int
    names: frozenset[str] = frozenset()
    entries: dict[str, list[Entry]] = field(default_factory=dict)
    _groups: dict[int, tuple[Layout, ByClient]] = field(default_factory=dict)  # by id(layout)

    def split(self, stacks: Stack) -> tuple[Stack, dict[str, Ghost]]:
        """Stacks whose per-example gradients are materialised, and those that write here."""
        ghosts = {
            name: Ghost(name, stacks[name], stacks[name].new_zeros((), requires_grad=True), self)
            for name in self.names
        }
        return {name: stack for name, stack in stacks.items() if name not in ghosts}, ghosts

    def by_client(self, layout: Layout, device: torch.device) -> ByClient:
        """Made once for every layout of the micro-batch."""
        found = self._groups.get(id(layout))
        if found is None:
            found = (layout, ByClient.of(layout.owner, self.slots, self.clients, device))
            self._groups[id(layout)] = found  # the layout is kept, so its id stays its own
        return found[1]

    def squares(self, name: str) -> Tensor:
        """Squared norms of a tensor's per-example gradients, fp32 ``[examples]``.

        A layer that is called twice in one pass (DeBERTa's projections of its position table) has
        the sum of both calls as its gradient: their tokens are put end to end.
        """
        calls = self.entries[name]
        xs = [call.layout.blocks(call.x) for call in calls]
        grads = [call.layout.blocks(call.grad) for call in calls]
        norms = []
        for parts in zip(*xs, *grads, strict=True):
            x, grad = torch.cat(parts[: len(calls)], 1), torch.cat(parts[len(calls) :], 1)
            norms.append(_square_norms(x.float(), grad.float()))
        return torch.cat(norms)

    def sums(self, name: str, factors: Tensor, clean: bool) -> Tensor:
        """Per client, the sum of gradients times factors.

        Args:
            name: of one of ``names``.
            factors: fp32 [examples]; 0 for an example to be left out.
            clean: whether all values are finite; otherwise rows of factor 0 are replaced.

        Returns:
            fp32 ``[clients, m, k]``.
        """
        return torch.stack([_sum(call, factors, clean) for call in self.entries[name]]).sum(0)


@dataclass(frozen=True)
class Ghost:
    """A trainable tensor in the context of a forward pass: a stack and the tape to write in."""

    name: str
    stack: Tensor  # [clients, m, k]
    anchor: Tensor  # a scalar that requires a gradient, so that a backward pass comes by
    tape: Tape

    def times(self, x: Tensor, layout: Layout) -> Tensor:
        """``x W^T`` with every row's own client's W: rows ``[rows, k]`` -> ``[rows, m]``."""
        y: Tensor = _ClientLinear.apply(x, self.stack.to(x.dtype), self.anchor, self, layout)
        return y


class _ClientLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, stack: Tensor, anchor: Tensor, ghost: Ghost, layout: Layout
    ) -> Tensor:
        groups = ghost.tape.by_client(layout, x.device)
        ctx.save_for_backward(x, stack)
        ctx.ghost, ctx.layout, ctx.groups = ghost, layout, groups
        return groups.scatter(torch.bmm(groups.gather(x), stack.transpose(1, 2)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor, None, None]:
        x, stack = ctx.saved_tensors
        entry = Entry(x.detach(), grads[0], ctx.layout, ctx.groups)
        ctx.ghost.tape.entries.setdefault(ctx.ghost.name, []).append(entry)
        back = None
        if ctx.needs_input_grad[0]:
            back = ctx.groups.scatter(torch.bmm(ctx.groups.gather(grads[0]), stack))
        return back, None, grads[0].new_zeros(()), None, None


def _square_norms(x: Tensor, grad: Tensor) -> Tensor:
    """``||grad_e^T x_e||^2`` of blocks ``[n, tokens, k]`` and ``[n, tokens, m]``, ``[n]``.

    By Gram matrices or by the gradient, whichever is less work; a single token needs neither.
    """
    tokens, k, m = x.shape[1], x.shape[2], grad.shape[2]
    if tokens == 1:
        return x.square().sum((1, 2)) * grad.square().sum((1, 2))
    if tokens * (k + m) <= k * m:
        grams = torch.bmm(x, x.transpose(1, 2)) * torch.bmm(grad, grad.transpose(1, 2))
        return grams.sum((1, 2)).clamp(min=0)  # rounding may leave a zero just below
    return torch.bmm(grad.transpose(1, 2), x).square().sum((1, 2))


def _sum(call: Entry, factors: Tensor, clean: bool) -> Tensor:
    """``sum_e f_e G_e`` of each client over one call, fp32 ``[clients, m, k]``."""
    owner = torch.from_numpy(np.maximum(call.layout.owner, 0)).to(factors.device)
    weights = factors[owner][:, None]  # [rows, 1]; padding rows are not gathered
    x, grad = call.x.float(), call.grad.float()
    if not clean:
        x, grad = (torch.where(weights > 0, value, 0) for value in (x, grad))
    weighted = call.groups.gather(grad * weights)
    return torch.bmm(weighted.transpose(1, 2), call.groups.gather(x))
