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
    """Made once for every set of shapes: a captured graph reads and writes these very addresses."""

    flat: nn.Parameter  # [clients, P]
    total: Tensor  # [clients, P] sum of clipped per-example gradients of the step
    held: Stack  # [clients, ...] different between clients, not trained now
    common: Tensors  # plain shapes
    layout: Shapes  # of one client's trained tensors
    counts: Tensor  # float64 [clients, 5]: loss, rows, then units clipped, non-finite, seen

    @staticmethod
    def of(job: LocalJob, device: torch.device) -> RoundTensors:
        """Tensors with the values that ``job`` starts from."""
        layout = {name: tuple(job.start[name].shape[1:]) for name in job.trainable}
        columns = [job.start[n].reshape(len(job.clients), -1).float() for n in layout]
        flat = nn.Parameter(torch.cat(columns, 1).to(device, copy=True))
        return RoundTensors(
            flat,
            torch.zeros_like(flat.data),
            {n: v.to(device, copy=True) for n, v in job.start.items() if n not in layout},
            {n: v.to(device) for n, v in job.common.items()},
            layout,
            new_counts(len(flat), device),
        )

    def fits(self, job: LocalJob) -> bool:
        """Whether ``load`` can take this job: the same names, shapes and number of clients."""
        start = {**self.trained, **self.held}
        return (
            tuple(self.layout) == job.trainable
            and {n: v.shape for n, v in start.items()} == {n: v.shape for n, v in job.start.items()}
            and {n: v.shape for n, v in self.common.items()}
            == {n: v.shape for n, v in job.common.items()}
        )

    def load(self, job: LocalJob) -> None:
        """Take over the job's values in place; nothing is counted yet."""
        self.counts.zero_()
        for name, value in {**self.trained, **self.held}.items():
            value.copy_(job.start[name])
        for name, value in self.common.items():
            value.copy_(job.common[name])

    @property
    def trained(self) -> Stack:
        """Views of ``flat`` by name; ``[clients, ...]``."""
        return views(self.flat.data, self.layout)

    @property
    def totals(self) -> Stack:
        """Views of ``total`` by name; ``[clients, ...]``."""
        return views(self.total, self.layout)


def views(flat: Tensor, layout: Shapes) -> Stack:
    """Named views of ``[clients, P]``; writing to a view writes to ``flat``."""
    named: Stack = {}
    start = 0
    for name, shape in layout.items():
        size = int(np.prod(shape))
        named[name] = flat[:, start : start + size].unflatten(1, shape)
        start += size
    return named
