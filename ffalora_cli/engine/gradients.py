"""Computes losses and per-example gradients of one micro-batch, however its inputs arrived."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ffalora_cli.adapters.context import Factor
from ffalora_cli.adapters.ghost import Ghost
from ffalora_cli.models.network import Inputs, Network
from ffalora_cli.tasks.targets import BatchTargets
from ffalora_cli.types import Examples, Stack


@dataclass(frozen=True)
class MicroBatch:
    """Examples of a step, on the model's device."""

    inputs: Inputs
    targets: BatchTargets
    slots: Tensor  # int64 [examples], each one's client in the stacks

    @staticmethod
    def of(network: Network, examples: Examples, slots: np.ndarray, rows: np.ndarray) -> MicroBatch:
        """Rows of a data set, int64 [examples], longest first, padded only where the model must."""
        device = network.device
        inputs = network.inputs(examples, rows)
        targets = examples.targets.batch(rows).to(device)
        return MicroBatch(inputs, targets, torch.from_numpy(slots).to(device))


def gradients(
    network: Network, batch: MicroBatch, trained: Stack, held: Stack, common: Mapping[str, Factor]
) -> tuple[Tensor, Stack]:
    """Losses and exact per-example gradients: those of the summed loss to each example's copies.

    No value is looked at and no shape depends on one.

    Args:
        network: frozen, with sites.
        batch: the examples.
        trained: ``[clients, ...]``, differentiated.
        held: ``[clients, ...]``, different between clients but not trained now.
        common: plain shapes, and ghosts: the backward pass fills their tape.

    Returns:
        Losses ``[examples]`` and gradients ``[examples, ...]`` by name.
    """
    leaves = {n: v.index_select(0, batch.slots).requires_grad_() for n, v in trained.items()}
    copies = {n: v.index_select(0, batch.slots) for n, v in held.items()}
    losses = network.losses(batch.inputs, {**common, **copies, **leaves}, batch.targets)
    anchors = [value.anchor for value in common.values() if isinstance(value, Ghost)]
    grads = torch.autograd.grad(losses.sum(), [*leaves.values(), *anchors])
    return losses.detach(), dict(zip(leaves, grads, strict=False))
