"""Runs micro-batches in a few fixed shapes, as CUDA graphs: a small model is launch-bound.

Rows, examples and tokens are rounded up, everything a micro-batch needs goes to the device in one
copy, and forward, backward, clip and sum of a shape are captured the second time it is met. What
fills a shape up is an example that counts as nothing. Eager (on a CPU, or with ghost norms) it
is the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from ffalora_cli.adapters.context import Factor
from ffalora_cli.adapters.ghost import Tape
from ffalora_cli.adapters.layout import Rectangle
from ffalora_cli.engine.gradients import MicroBatch, gradients
from ffalora_cli.engine.job import ExamplePrivacy
from ffalora_cli.engine.stacked import clipped_sums
from ffalora_cli.engine.stacked.graphs import Captured, Graph
from ffalora_cli.engine.stacked.round_tensors import RoundTensors
from ffalora_cli.models.families.packed import Packed
from ffalora_cli.models.network import Network
from ffalora_cli.tasks.targets import BatchTargets
from ffalora_cli.types import Examples, Tensors

ROWS, EXAMPLES, TOKENS = 512, 64, 16  # shapes are multiples of these
LAID_OUT = ("ids", "types", "positions", "first")  # fields of ``Packed``
TARGETS = ("values", "owner", "tokens", "weights")  # fields of ``BatchTargets``
MOST_GRAPHS = 32  # each keeps the activations of its shape; beyond, shapes run eagerly


@dataclass
class FixedShapes:
    """Runs micro-batches of one engine."""

    network: Network
    examples: Examples
    graph: Callable[[torch.device], Graph] | None = None  # None: everything runs eagerly
    _graphs: dict[tuple[object, ...], Captured | None] = field(default_factory=dict)

    def forget(self) -> None:
        """Drop all graphs: the tensors they read are gone."""
        self._graphs.clear()

    def add(
        self,
        slots: np.ndarray,
        rows: np.ndarray,
        privacy: ExamplePrivacy | None,
        tensors: RoundTensors,
        ghosts: frozenset[str],
    ) -> int:
        """Add one micro-batch's clipped gradients and its counts to ``tensors``.

        Args:
            slots: int64 [examples], each example's client.
            rows: int64 [examples], longest first.
            privacy: gives the clip.
            tensors: of the round.
            ghosts: names of the tensors with ghost norms.

        Returns:
            Rows computed, filling included.
        """
        inputs, owner = self._inputs(slots, rows)
        shape = (len(inputs["ids"]), *inputs["index"].shape)
        tape = Tape(_filled(slots, shape[1]), len(tensors.flat), ghosts)

        def work(batch: Tensors) -> None:
            self._pass(batch, owner, privacy, tensors, tape)

        device = self.network.device
        if self.graph is None or ghosts:
            work({name: value.to(device) for name, value in inputs.items()})
            return shape[0]
        clip = privacy and (privacy.clip, privacy.max_grad_norm)
        key = (shape, clip, self.network.replaced)
        captured = self._graphs.get(key)
        if captured is not None:
            captured.replay(inputs)
            return shape[0]
        if key in self._graphs and len(self._graphs) <= MOST_GRAPHS:
            sums, graph = (tensors.total, tensors.counts), self.graph(device)
            self._graphs[key] = Captured.of(work, inputs, sums, device, graph)
        else:
            work({name: value.to(device) for name, value in inputs.items()})
            self._graphs.setdefault(key, None)
        return shape[0]

    def _inputs(self, slots: np.ndarray, rows: np.ndarray) -> tuple[Tensors, np.ndarray]:
        """Everything that differs between micro-batches of one shape, on the CPU; rows' owners."""
        lengths = np.asarray(self.examples.lengths)[rows]
        used, examples = int(lengths.sum()), _up(len(rows), EXAMPLES)
        height = _up(used + 1, ROWS)  # one row at least for what fills the shape up
        rectangle = Rectangle.of(lengths, height, examples, _up(int(lengths.max()), TOKENS))
        ids, types = self.examples.packed(rows)
        starts = np.r_[0, np.cumsum(lengths)[:-1]]
        positions = np.zeros(height, np.int64)
        positions[:used] = np.arange(used) - np.repeat(starts, lengths)
        pad = (0, height - used)
        targets = self.examples.targets.batch(_filled(rows, examples))
        inputs = {
            "ids": nn.functional.pad(ids, pad),
            "types": nn.functional.pad(torch.zeros_like(ids) if types is None else types, pad),
            "positions": torch.from_numpy(positions),
            "first": rectangle.index[:, 0].clone(),
            "index": rectangle.index,
            "mask": rectangle.mask,
            "position": rectangle.position,
            "real": rectangle.real,
            "values": targets.values,
            "owner": targets.owner,
            "tokens": targets.positions,
            "weights": targets.weights,
            "slots": torch.from_numpy(_filled(slots, examples)),
            "exists": torch.arange(examples) < len(rows),
        }
        return inputs, rectangle.owner

    def _pass(
        self,
        batch: Tensors,
        owner: np.ndarray,
        privacy: ExamplePrivacy | None,
        tensors: RoundTensors,
        tape: Tape,
    ) -> None:
        """Forward, backward, clip and sum; no value is looked at, no shape depends on one."""
        layout = Rectangle(batch["index"], batch["mask"], batch["position"], batch["real"], owner)
        ids, types, positions, first = (batch[name] for name in LAID_OUT)
        values, examples, tokens, weights = (batch[name] for name in TARGETS)
        targets = BatchTargets(values, examples, tokens, weights, len(batch["slots"]))
        inputs = Packed(ids, types, positions, first, layout, layout.heads)
        micro = MicroBatch(inputs, targets, batch["slots"])
        trained, ghosts = tape.split(tensors.trained)
        common: Mapping[str, Factor] = {**tensors.common, **ghosts}
        losses, grads = gradients(self.network, micro, trained, tensors.held, common)
        sums = (tape, tensors.totals, tensors.counts, batch["exists"])
        clipped_sums.add_clipped(privacy, micro.slots, losses, grads, *sums)


def _up(count: int, unit: int) -> int:
    """The next multiple of ``unit``."""
    return -(-count // unit) * unit


def _filled(values: np.ndarray, length: int) -> np.ndarray:
    """``values`` and zeros after them, int64 [length]."""
    filled = np.zeros(length, np.int64)
    filled[: len(values)] = values
    return filled
