"""Trains a client whose rows include canaries with the run's engine, watched from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ffalora_cli import keys
from ffalora_cli.adapters.context import Factor
from ffalora_cli.audit.mechanism.observe import WatchedOptimizer
from ffalora_cli.engine.job import LocalJob, LocalResult
from ffalora_cli.engine.stacked.engine import StackedEngine
from ffalora_cli.types import Stack, Tensors

SeeStep = Callable[[np.ndarray], None]
"""Is shown the privatised gradient of one step at every canary's coordinate, ``[canaries]``."""


@dataclass(frozen=True)
class Canaries:
    """Units with a crafted gradient, each with a coordinate of its own.

    Attributes:
        included: the coins, bool ``[canaries]``.
        owner: canary of each of their rows, int64 ``[rows]``.
        first_row: of these; they follow the real rows in order.
        norm: of their gradients.
        key: of the coordinates.
        personal: names of tensors that are not uploaded and get no coordinate.
    """

    included: np.ndarray
    owner: np.ndarray
    first_row: int
    norm: float
    key: keys.Key
    personal: tuple[str, ...]
    _coordinates: dict[tuple[str, ...], np.ndarray] = field(default_factory=dict)

    def coordinates(self, shapes: dict[str, tuple[int, ...]]) -> np.ndarray:
        """Position of every canary in the flat parameter vector of these tensors, int64."""
        names = tuple(shapes)
        if names not in self._coordinates:
            allowed, start = [], 0
            for name, shape in shapes.items():
                size = int(np.prod(shape))
                if name not in self.personal:
                    allowed.append(np.arange(start, start + size))
                start += size
            generator = keys.numpy_generator(keys.derive(self.key, "coordinates", *names))
            shuffled = generator.permutation(np.concatenate(allowed))
            self._coordinates[names] = shuffled[: len(self.included)]
        return self._coordinates[names]

    def gradients(self, rows: np.ndarray, shapes: dict[str, tuple[int, ...]]) -> Stack:
        """Gradients of canaries' rows, ``[rows, ...]`` by name."""
        numbers = self.owner[rows - self.first_row]
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        flat = torch.zeros(len(rows), sum(sizes))  # [rows, P]
        where = torch.from_numpy(self.coordinates(shapes)[numbers])
        flat[torch.arange(len(rows)), where] = self.norm
        parts = flat.split(sizes, dim=1)
        return {
            name: part.unflatten(1, shape)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }


@dataclass
class CanaryEngine(StackedEngine):
    """The stacked engine with canaries among the rows; everything after a gradient is its own."""

    canaries: Canaries = field(kw_only=True)
    see_step: SeeStep | None = None
    start: Tensors = field(init=False, default_factory=dict)  # of the round under way
    shapes: dict[str, tuple[int, ...]] = field(init=False, default_factory=dict)

    def train(self, job: LocalJob) -> LocalResult:
        """One round of the one client, every step shown to the observer."""
        self.shapes = {name: tuple(job.start[name].shape[1:]) for name in job.trainable}
        self.start = {name: job.start[name][0] for name in job.trainable}
        where = torch.from_numpy(self.canaries.coordinates(self.shapes))

        def see(grads: list[torch.Tensor]) -> None:
            if self.see_step is not None:
                self.see_step(grads[0][0, where].numpy())

        optimizer = WatchedOptimizer(**vars(job.optimizer), see=see)
        return super().train(replace(job, optimizer=optimizer))

    def per_example_gradients(
        self,
        slots: np.ndarray,
        rows: np.ndarray,
        trained: Stack,
        held: Stack,
        common: Mapping[str, Factor],
    ) -> tuple[torch.Tensor, Stack]:
        """Crafted gradients for canaries, real ones for the rest."""
        shapes = {name: tuple(value.shape[1:]) for name, value in trained.items()}
        crafted = rows >= self.canaries.first_row
        losses = torch.zeros(len(rows))
        canary = torch.from_numpy(crafted)
        made = self.canaries.gradients(rows[crafted], shapes)
        if crafted.all():
            return losses, made
        losses[~canary], real = super().per_example_gradients(
            slots[~crafted], rows[~crafted], trained, held, common
        )
        grads = {name: torch.empty(len(rows), *shape) for name, shape in shapes.items()}
        for name, value in grads.items():
            value[canary], value[~canary] = made[name], real[name]
        return losses, grads
