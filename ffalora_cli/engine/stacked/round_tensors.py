"""Holds a round's tensors on the device: what the optimiser changes and reads, what is summed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ffalora_cli.engine.job import LocalJob
from ffalora_cli.engine.stacked.clipped_sums import new_counts
from ffalora_cli.types import Stack, Tensors

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class RoundTensors:
    """Made once for every kind of job: a captured graph reads and writes these very addresses.

    There may be more places than clients. The first are the clients'; no example belongs to the
    others, their gradient is zero, and they are not read.
    """

    flat: nn.Parameter  # [places, P]
    total: Tensor  # [places, P] sum of clipped per-example gradients of the step
    held: Stack  # [places, ...] different between clients, not trained now
    common: Tensors  # plain shapes
    layout: Shapes  # of one client's trained tensors
    counts: Tensor  # float64 [places, 5]: loss, rows, then units clipped, non-finite, seen
    clip: Tensor  # float64 [], largest norm of a unit's gradient

    @staticmethod
    def of(job: LocalJob, device: torch.device, places: int | None = None) -> RoundTensors:
        """Tensors with the values that ``job`` starts from; a place a client if not said."""
        places = places or len(job.clients)
        layout = {name: tuple(job.start[name].shape[1:]) for name in job.trainable}
        size = sum(int(np.prod(shape)) for shape in layout.values())
        rest = {n: v for n, v in job.start.items() if n not in layout}
        tensors = RoundTensors(
            nn.Parameter(torch.zeros(places, size, device=device)),
            torch.zeros(places, size, device=device),
            {n: v.new_zeros(places, *v.shape[1:], device=device) for n, v in rest.items()},
            {n: torch.empty_like(v, device=device) for n, v in job.common.items()},
            layout,
            new_counts(places, device),
            torch.zeros((), dtype=torch.float64, device=device),
        )
        tensors.load(job)
        return tensors

    def load(self, job: LocalJob) -> None:
        """Take over the values of a job of the same kind in place; nothing is counted yet."""
        self.counts.zero_()
        if job.privacy is not None:
            self.clip.fill_(job.privacy.max_grad_norm)
        clients = len(job.clients)
        self.flat.data[clients:].zero_()  # who had these places before does not matter
        for name, value in {**self.trained, **self.held}.items():
            value[:clients].copy_(job.start[name])
        for name, value in self.common.items():
            value.copy_(job.common[name])

    @property
    def trained(self) -> Stack:
        """Views of ``flat`` by name; ``[places, ...]``."""
        return views(self.flat.data, self.layout)

    @property
    def totals(self) -> Stack:
        """Views of ``total`` by name; ``[places, ...]``."""
        return views(self.total, self.layout)


def kind_of(job: LocalJob, places: int) -> tuple[object, ...]:
    """What must agree for one job's tensors to take another's values."""
    start = [(name, value.shape[1:], value.dtype) for name, value in job.start.items()]
    common = [(name, value.shape, value.dtype) for name, value in job.common.items()]
    return (job.trainable, places, *start, *common)


def views(flat: Tensor, layout: Shapes) -> Stack:
    """Named views of ``[clients, P]``; writing to a view writes to ``flat``."""
    named: Stack = {}
    start = 0
    for name, shape in layout.items():
        size = int(np.prod(shape))
        named[name] = flat[:, start : start + size].unflatten(1, shape)
        start += size
    return named
