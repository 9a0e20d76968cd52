"""Writes down what every optimiser step was given and what every client uploaded.

The only places where the audit reaches into the run's code: ``Simulation.engine``, its
``_receive``, and ``StackedEngine.per_example_gradients``, all on the instance under test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ffalora_cli.engine.job import LocalJob, LocalOptimizer, LocalResult
from ffalora_cli.models.fingerprint import fingerprint_tensors
from ffalora_cli.types import Stack

if TYPE_CHECKING:
    from ffalora_cli.data.batches import StepBatches
    from ffalora_cli.federation.contract import Receipt
    from ffalora_cli.federation.simulation import Simulation

Craft = Callable[[np.ndarray, np.ndarray], Tensor]
"""(slots, rows) of a micro-batch -> their gradients, all tensors side by side ``[examples, P]``."""


@dataclass
class Seen:
    """One round of the whole cohort."""

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
class _Recording(LocalOptimizer):
    """The run's optimiser; every gradient it is handed is copied first."""

    given: list[Tensor] = field(default_factory=list)

    def build(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """The same ``torch.optim`` object, watched."""
        optimizer = super().build(parameters)
        optimizer.register_step_pre_hook(self._keep)
        return optimizer

    def _keep(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        (stack,) = (p for group in optimizer.param_groups for p in group["params"])
        assert stack.grad is not None
        self.given.append(stack.grad.detach().cpu().clone())


@dataclass
class ObservedEngine:
    """The run's engine, watched.

    Attributes:
        engine: the real one.
        seen: what it did, a round an entry.
        batches: used instead of the sampled ones, one a local step; None leaves them.
        idle: do not train: the job is written down, the clients keep what they have.
    """

    engine: Any
    seen: list[Seen] = field(default_factory=list)
    batches: Sequence[StepBatches] | None = None
    idle: bool = False

    def train(self, job: LocalJob) -> LocalResult:
        """One round of local training, by the real engine unless idle."""
        if self.batches is not None:
            job = replace(job, batches=self.batches)
        given: list[Tensor] = []
        frozen = self._frozen(job)
        if self.idle:
            nobody = np.zeros(len(job.clients), np.int64)
            kept = {name: job.start[name] for name in job.trainable}
            result = LocalResult(kept, nobody.astype(float), nobody, nobody, nobody, nobody, 0, 0)
        else:
            result = self.engine.train(replace(job, optimizer=_recording(job.optimizer, given)))
        size = sum(job.start[name][0].numel() for name in job.trainable)
        gradients = torch.stack(given) if given else torch.zeros(0, len(job.clients), size)
        self.seen.append(Seen(job, gradients, result, self._frozen(job) == frozen))
        return result

    def _frozen(self, job: LocalJob) -> str:
        """Fingerprint of the backbone and of what the clients hold but do not train."""
        held = {name: value for name, value in job.start.items() if name not in job.trainable}
        weights = dict(self.engine.network.model.named_parameters())
        return fingerprint_tensors(weights | dict(job.common) | held)


def watch(
    simulation: Simulation,
    craft: Craft | None = None,
    batches: Sequence[StepBatches] | None = None,
    idle: bool = False,
) -> list[Seen]:
    """Watch a simulation from now on.

    Args:
        simulation: not yet played.
        craft: gradients to hand to clip and noise instead of the model's own.
        batches: instead of the sampled ones, one a local step.
        idle: only look at the jobs.

    Returns:
        A list that grows by one entry a round (all clients are one chunk).
    """
    observed = ObservedEngine(simulation.engine, batches=batches, idle=idle)
    if craft is not None:
        observed.engine.per_example_gradients = _crafted(craft)
        observed.engine.books = False
    receive = simulation._receive

    def keep(*arrived: Any) -> Receipt:
        receipt = receive(*arrived)
        observed.seen[-1].upload = receipt.uploads
        if simulation.privacy_ledger is not None:
            observed.seen[-1].charged = simulation.privacy_ledger.steps_taken.copy()
        return receipt

    simulation.engine = observed
    simulation._receive = keep  # type: ignore[method-assign, assignment]
    return observed.seen


def _recording(optimizer: LocalOptimizer, given: list[Tensor]) -> _Recording:
    settings = {name: getattr(optimizer, name) for name in ("name", "lr", "momentum")}
    return _Recording(**settings, weight_decay=optimizer.weight_decay, given=given)


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
