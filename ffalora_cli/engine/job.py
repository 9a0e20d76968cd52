"""Defines an engine's input and output: one cohort's local training, and its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch

from ffalora_cli.keys import Key
from ffalora_cli.privacy.mechanism.clipping import ClipKind
from ffalora_cli.stopping import Poll, never
from ffalora_cli.types import Stack, Tensors


@dataclass(frozen=True)
class LocalOptimizer:
    """A client's optimiser; its state is fresh every round."""

    name: str  # "sgd" | "adamw"
    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip_gradients: float | None = None  # norm that a batch's gradient is cut to before a step

    def build(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """The ``torch.optim`` object over these parameters."""
        if self.name == "adamw":
            return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )


@dataclass(frozen=True)
class ExamplePrivacy:
    """DP-SGD of a cohort: every unit moves its client's sum by at most ``max_grad_norm``."""

    max_grad_norm: float | torch.Tensor  # fp64 [] in work that is captured for all rounds
    noise_sd: np.ndarray  # float64 [clients], on the summed gradient
    expected_batch: np.ndarray  # float64 [clients], the divisor
    secret: Key
    clip: ClipKind = "flat"


@dataclass(frozen=True)
class LocalJob:
    """One round of local training for one cohort (or a chunk of it)."""

    round: int
    clients: np.ndarray  # int64 [clients], ids
    batches: Sequence[StepBatches]  # one a local step
    start: Stack  # [clients, ...] every tensor that differs between clients or is trained
    common: Tensors  # plain shapes: frozen this round and the same for all
    trainable: tuple[str, ...]  # names in ``start`` that are trained, in layout order
    optimizer: LocalOptimizer
    privacy: ExamplePrivacy | None = None
    dropout: float = 0.0  # of the adapters' inputs
    model_dropout: float | Literal["own"] | None = None  # of the frozen model
    dropout_key: Key = b""
    extents: Mapping[str, np.ndarray] | None = None  # trained -> int [clients, axes]: where clients
    # have different ranks, how much of each axis is a client's own; the rest is zero and stays so
    poll: Poll = never  # between micro-batches; raises to abandon the job
    max_tokens: int | None = None  # of a micro-batch, if an earlier job ran out of memory with more

    @property
    def drops(self) -> bool:
        """Whether any dropout is on."""
        return self.dropout > 0 or self.model_dropout is not None


@dataclass(frozen=True)
class LocalResult:
    """What a cohort's training left behind."""

    trained: Stack  # [clients, ...] new values of the trainable tensors, on the CPU
    loss_sum: np.ndarray  # float64 [clients], summed over examples and steps
    examples: np.ndarray  # int64 [clients], rows seen
    units: np.ndarray  # int64 [clients], units of privacy seen (rows, where each is its own)
    clipped: np.ndarray  # int64 [clients], units whose gradient was cut, as a whole or in a row
    nonfinite: np.ndarray  # int64 [clients], units whose gradient was dropped
    tokens: int  # real tokens processed
    padded_tokens: int  # tokens processed, padding included
    halvings: int = 0  # of the micro-batches, because memory ran out
    max_tokens: int | None = None  # of a micro-batch from now on, if less than before


class Engine(Protocol):
    """Trains a cohort; values in, values out. It alone knows a device: both are on the CPU."""

    def train(self, job: LocalJob) -> LocalResult:
        """One round of local training."""
        ...


@dataclass(frozen=True)
class StepBatches:
    """The (client slot, row) pairs of one local step of a cohort, grouped by slot in order."""

    slots: np.ndarray  # int64 [pairs]
    rows: np.ndarray  # int64 [pairs], row of the training set
    units: np.ndarray | None = None  # int64 [pairs], unit of each within the step; None: its own


def stack_step(batches: Sequence[np.ndarray], units: Sequence[np.ndarray] = ()) -> StepBatches:
    """Put the clients' batches of one step end to end.

    Args:
        batches: rows of each client.
        units: unit of each of these rows within its client; none where every row is its own.
    """
    sizes = [len(batch) for batch in batches]
    slots = np.repeat(np.arange(len(batches), dtype=np.int64), sizes)
    rows = np.concatenate(batches) if batches else np.zeros(0, np.int64)
    if not len(units):
        return StepBatches(slots, rows.astype(np.int64))
    # Two clients' units of one number are two units.
    pairs = np.stack([slots, np.concatenate(units)], axis=1)
    number = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
    return StepBatches(slots, rows.astype(np.int64), number)
