"""Writes down what every optimiser step was given and what every client uploaded.

It drives the rounds: every job and everything that arrives passes through its hands. Crafted
gradients are the one thing put into the run's code (``StackedEngine.per_example_gradients``, on the
instance under test).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ffalora_cli.engine.job import LocalJob, LocalOptimizer, LocalResult
from ffalora_cli.federation.wire.contract import Receipt
from ffalora_cli.models.fingerprint import fingerprint_tensors
from ffalora_cli.types import Stack

if TYPE_CHECKING:
    from ffalora_cli.engine.job import StepBatches
    from ffalora_cli.federation.simulation import Simulation

Craft = Callable[[np.ndarray, np.ndarray], Tensor]
"""(slots, rows) of a micro-batch -> their gradients, all tensors side by side ``[examples, P]``."""


@dataclass
class Seen:
    """One exchange of the whole cohort."""

    job: LocalJob
    gradients: Tensor  # fp32 [steps, clients, P], as the optimiser got them: noised and divided
    result: LocalResult
    frozen_kept: bool  # whether training left every frozen weight as it was, to the bit
    upload: Stack = field(default_factory=dict)  # as the server unpacked it
    charged: np.ndarray | None = None  # int64 [all clients], in the ledger by the upload

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one client's trained tensors, in layout order."""
        return {name: tuple(self.job.start[name].shape[1:]) for name in self.job.trainable}

    def sums(self) -> Tensor:
        """Gradients times the expected batch: noisy sums of clipped gradients, float64."""
        assert self.job.privacy is not None
        batch = torch.from_numpy(self.job.privacy.expected_batch)
        return self.gradients.double() * batch[None, :, None]

    def by_tensor(self, values: Tensor) -> dict[str, Tensor]:
        """``[..., P]`` cut into its tensors, each ``[..., elements]``."""
        sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        return dict(zip(self.shapes, values.split(sizes, dim=-1), strict=True))


@dataclass(frozen=True)
class WatchedOptimizer(LocalOptimizer):
    """The run's optimiser; shows the gradients it is about to apply.

    Attributes:
        see: is shown copies of the gradients: of the stacked engine one ``[clients, P]``, else one
            a tensor.
    """

    see: Callable[[list[Tensor]], None] = field(kw_only=True)

    def build(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """The same ``torch.optim`` object with a hook before its step."""
        optimizer = super().build(parameters)

        def look(*_: Any) -> None:
            self.see([p.grad.detach().cpu().clone() for p in parameters if p.grad is not None])

        optimizer.register_step_pre_hook(look)
        return optimizer


@dataclass
class Watched:
    """A simulation whose rounds are played before our eyes.

    Attributes:
        simulation: not yet played.
        craft: gradients to hand to clip and noise instead of the model's own.
        batches: used instead of the sampled ones, one a local step; None leaves them.
        idle: do not train: the job is written down, the clients keep what they have.
        seen: what happened, an exchange an entry (all clients are one chunk).
    """

    simulation: Simulation
    craft: Craft | None = None
    batches: Sequence[StepBatches] | None = None
    idle: bool = False
    seen: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        engine: Any = self.simulation.engine
        if self.craft is not None:
            engine.per_example_gradients = _crafted(self.craft)
            engine.ghost_norms = False
        self.engine = engine

    def play(self, round: int) -> None:
        """One round."""
        self.simulation.play(round, self._answer)

    def _answer(self, asked: LocalJob | Receipt) -> LocalResult | None:
        if isinstance(asked, LocalJob):
            return self._train(asked)
        ledger = self.simulation.privacy_ledger
        self.seen[-1].upload = asked.uploads
        self.seen[-1].charged = None if ledger is None else ledger.steps_taken.copy()
        return None

    def _train(self, job: LocalJob) -> LocalResult:
        """Local training by the real engine, unless idle."""
        if self.batches is not None:
            job = replace(job, batches=self.batches)
        given: list[Tensor] = []
        frozen = self._frozen(job)
        if self.idle:
            nobody = np.zeros(len(job.clients), np.int64)
            kept = {name: job.start[name] for name in job.trainable}
            result = LocalResult(kept, nobody.astype(float), nobody, nobody, nobody, nobody, 0, 0)
        else:
            optimizer = WatchedOptimizer(**vars(job.optimizer), see=given.extend)
            result = self.engine.train(replace(job, optimizer=optimizer))
        size = sum(job.start[name][0].numel() for name in job.trainable)
        gradients = torch.stack(given) if given else torch.zeros(0, len(job.clients), size)
        self.seen.append(Seen(job, gradients, result, self._frozen(job) == frozen))
        return result

    def _frozen(self, job: LocalJob) -> str:
        """Fingerprint of the backbone and of what the clients hold but do not train."""
        held = {name: value for name, value in job.start.items() if name not in job.trainable}
        weights = dict(self.engine.network.model.named_parameters())
        return fingerprint_tensors(weights | dict(job.common) | held)


def _crafted(craft: Craft) -> Callable[..., tuple[Tensor, Stack]]:
    def per_example_gradients(
        slots: np.ndarray, rows: np.ndarray, trained: Stack, held: Stack, common: Stack
    ) -> tuple[Tensor, Stack]:
        flat = craft(slots, rows)
        sizes = [value[0].numel() for value in trained.values()]
        cut = zip(trained.items(), flat.split(sizes, dim=1), strict=True)
        grads = {name: part.unflatten(1, value.shape[1:]) for (name, value), part in cut}
        return torch.zeros(len(rows)), grads

    return per_example_gradients
