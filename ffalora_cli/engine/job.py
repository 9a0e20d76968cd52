"""What an engine is given and what it returns: one cohort's local training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ffalora_cli.data.batches import StepBatches
from ffalora_cli.keys import Key
from ffalora_cli.privacy.clipping import ClipKind
from ffalora_cli.stopping import Poll, never
from ffalora_cli.types import Stack, Tensors


@dataclass(frozen=True)
class LocalOptimizer:
    """A client's optimiser; its state is fresh every round."""

    name: str  # "sgd" | "adamw"
    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0

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

    max_grad_norm: float
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
    dropout: float = 0.0
    dropout_key: Key = b""
    extents: Mapping[str, np.ndarray] | None = None  # trained -> int [clients, axes]: where clients
    # have different ranks, how much of each axis is a client's own; the rest is zero and stays so
    poll: Poll = never  # between micro-batches; raises to abandon the job


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


class Engine(Protocol):
    """Trains a cohort; values in, values out. It alone knows a device: both are on the CPU."""

    def train(self, job: LocalJob) -> LocalResult:
        """One round of local training."""
        ...
