"""Client-level privacy at the server: sum of clipped updates, noise once, a fixed denominator."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ffalora_cli.keys import Key
from ffalora_cli.privacy.client_level import clip_updates, private_mean
from ffalora_cli.privacy.plan import PrivacyPlan
from ffalora_cli.types import Stack, Tensors


@dataclass(frozen=True)
class ClientRelease:
    """The central mechanism of one run.

    Attributes:
        plan: with unit ``client``: noise multiplier, clip and expected cohort are the same for all.
        secret: key of the noise.
    """

    plan: PrivacyPlan
    secret: Key

    def add(self, total: Tensors, before: Tensors, uploads: Stack) -> Tensors:
        """``total`` (empty at first) plus a chunk's clipped updates.

        Args:
            total: sums by name so far.
            before: global tensors the chunk started from.
            uploads: ``[clients, ...]`` by name.
        """
        updates = {name: value - before[name] for name, value in uploads.items()}
        clipped, _ = clip_updates(updates, self.plan.max_grad_norm)
        sums = {name: value.double().sum(0) for name, value in clipped.items()}
        return {name: value + total.get(name, 0.0) for name, value in sums.items()}

    def mean(self, round: int, total: Tensors, before: Tensors) -> Tensors:
        """The released global tensors; for an empty cohort ``total`` holds zeros."""
        change = private_mean(
            {name: value.to(torch.float32) for name, value in total.items()},
            float(self.plan.noise_multiplier[0]),
            self.plan.max_grad_norm,
            float(self.plan.expected_batch[0]),
            self.secret,
            round,
        )
        return {name: before[name] + value for name, value in change.items()}
