"""Runs micro-batches in a few fixed shapes, as CUDA graphs: a small model is launch-bound.

Sizes and lengths of the classes of a layout are rounded up, and forward, backward, clip and sum of
a layout are captured the second time it is met. What fills it up are examples that count as
nothing. Eager (on a CPU, or with ghost norms) it
is the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ffalora_cli.adapters.context import Factor
from ffalora_cli.adapters.ghost import Tape
from ffalora_cli.adapters.layout import Layout
from ffalora_cli.engine.gradients import MicroBatch, gradients
from ffalora_cli.engine.job import ExamplePrivacy
from ffalora_cli.engine.stacked import clipped_sums
from ffalora_cli.engine.stacked.graphs import Captured, Graph
from ffalora_cli.engine.stacked.round_tensors import RoundTensors
from ffalora_cli.models.families.packed import Packed
from ffalora_cli.models.network import Network
from ffalora_cli.tasks.targets import BatchTargets
from ffalora_cli.types import Examples, Tensors

EXAMPLES, TOKENS = 32, 8  # the sizes and lengths of classes are multiples of these
CLASS_ROWS = 512  # price of a class: what a GPU computes while it starts the kernels of one more
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
        inputs, layout = self._inputs(slots, rows)
        tape = Tape(inputs["slots"].numpy(), len(tensors.flat), ghosts)

        def work(batch: Tensors) -> None:
            self._pass(batch, layout, privacy, tensors, tape)

        device = self.network.device
        if self.graph is None or ghosts:
            work({name: value.to(device) for name, value in inputs.items()})
            return len(layout.owner)
        clip = privacy and (privacy.clip, privacy.max_grad_norm)
        key = (layout, clip, self.network.replaced)
        captured = self._graphs.get(key)
        if captured is not None:
            captured.replay(inputs)
            return len(layout.owner)
        if key in self._graphs and len(self._graphs) <= MOST_GRAPHS:
            sums, graph = (tensors.total, tensors.counts), self.graph(device)
            self._graphs[key] = Captured.of(work, inputs, sums, device, graph)
        else:
            work({name: value.to(device) for name, value in inputs.items()})
            self._graphs.setdefault(key, None)
        return len(layout.owner)

    def _inputs(self, slots: np.ndarray, rows: np.ndarray) -> tuple[Tensors, Layout]:
        """Everything that differs between micro-batches of one layout, on the CPU; the layout."""
        lengths = np.asarray(self.examples.lengths)[rows]
        layout = Layout.of(lengths, CLASS_ROWS, EXAMPLES, TOKENS)
        real = layout.real
        packed = Packed.of(*self.examples.packed(rows), layout)
        targets = self.examples.targets.batch(_placed(rows, real, layout.examples))
        inputs = {name: getattr(packed, name) for name in LAID_OUT}
        assert layout.keys is not None
        inputs |= {
            "keys": layout.keys,
            "values": targets.values,
            "owner": targets.owner,
            "tokens": targets.positions,
            "weights": targets.weights,
            "slots": torch.from_numpy(_placed(slots, real, layout.examples)),
            "exists": torch.from_numpy(_placed(np.ones(len(rows)), real, layout.examples) > 0),
        }
        return inputs, layout

    def _pass(
        self,
        batch: Tensors,
        layout: Layout,
        privacy: ExamplePrivacy | None,
        tensors: RoundTensors,
        tape: Tape,
    ) -> None:
        """Forward, backward, clip and sum; no value is looked at, no shape depends on one."""
        layout = replace(layout, keys=batch["keys"])
        ids, types, positions, first = (batch[name] for name in LAID_OUT)
        values, examples, tokens, weights = (batch[name] for name in TARGETS)
        targets = BatchTargets(values, examples, tokens, weights, len(batch["slots"]))
        inputs = Packed(ids, types, positions, first, layout, layout.heads())
        micro = MicroBatch(inputs, targets, batch["slots"])
        trained, ghosts = tape.split(tensors.trained)
        common: Mapping[str, Factor] = {**tensors.common, **ghosts}
        losses, grads = gradients(self.network, micro, trained, tensors.held, common)
        sums = (tape, tensors.totals, tensors.counts, batch["exists"])
        clipped_sums.add_clipped(privacy, micro.slots, losses, grads, *sums)


def _placed(values: np.ndarray, places: np.ndarray, length: int) -> np.ndarray:
    """``values`` at their places, zero elsewhere; int64 [length]."""
    placed = np.zeros(length, np.int64)
    placed[places] = values
    return placed
