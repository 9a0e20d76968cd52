"""Runs micro-batches in a few fixed shapes, as CUDA graphs: a small model is launch-bound.

A micro-batch takes a usual layout of its data set that holds it, a cohort one of few numbers of
places, and everything goes to the device in one copy. Forward, backward, clip and sum are captured
when a usual layout is first met. What fills layout and cohort up counts as nothing. Eager (on a
CPU, with ghost norms, in no usual layout, with several targets a row) it is the same function.

Whether a micro-batch is replayed depends on itself alone, not on what was met before it: a run that
goes on has the bits of one that was never stopped.

Noise and optimiser stay outside: the noise's keys are new every step, and both are a handful of
kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ffalora_cli.adapters.context import Factor
from ffalora_cli.adapters.ghost import Tape
from ffalora_cli.adapters.layout import Layout
from ffalora_cli.engine.gradients import MicroBatch, gradients
from ffalora_cli.engine.job import ExamplePrivacy, LocalJob
from ffalora_cli.engine.stacked import clipped_sums
from ffalora_cli.engine.stacked.graphs import Captured, Graph, packed, shapes_of, unpacked
from ffalora_cli.engine.stacked.round_tensors import RoundTensors, kind_of
from ffalora_cli.engine.stacked.usual_shapes import UsualShapes
from ffalora_cli.models.families.packed import Packed
from ffalora_cli.models.network import Network
from ffalora_cli.tasks.targets import BatchTargets
from ffalora_cli.types import Examples, Tensors

LAID_OUT = ("ids", "types", "positions", "first", "last")  # fields of ``Packed``
TARGETS = ("values", "owner", "tokens", "weights")  # fields of ``BatchTargets``
LEAST_PLACES = 8  # numbers of places are multiples of it, larger ones of up to a quarter of theirs
MOST_KINDS = 4  # of jobs whose tensors and graphs are kept: two kinds of round, two sizes of chunk

Graphs = dict[tuple[object, ...], Captured]
"""By layout, clip rule and types of the inputs."""


@dataclass
class FixedShapes:
    """Runs micro-batches of one engine."""

    network: Network
    examples: Examples
    graph: Callable[[torch.device], Graph] | None = None  # None: everything runs eagerly
    _usual: UsualShapes = field(init=False)
    _kept: dict[tuple[object, ...], tuple[RoundTensors, Graphs]] = field(default_factory=dict)
    _graphs: Graphs = field(default_factory=dict)  # of the job under way
    _replaced: int = 0  # frozen weights that had moved when the graphs were captured

    def __post_init__(self) -> None:
        self._usual = UsualShapes(np.asarray(self.examples.lengths))

    def forget(self) -> None:
        """Drop all graphs, and the tensors that they read."""
        self._kept.clear()
        self._graphs = {}

    def tensors(self, job: LocalJob) -> RoundTensors:
        """Tensors with the job's values, where the graphs of an earlier job of its kind find them.

        A graph reads the frozen weights where they were: if one has moved, all are dropped.
        """
        if self._replaced != self.network.replaced:
            self.forget()
            self._replaced = self.network.replaced
        clients = len(job.clients)
        places = _up(clients, max(LEAST_PLACES, 1 << clients.bit_length() >> 3))
        kind = kind_of(job, places)
        kept = self._kept.pop(kind, None)
        if kept is None:
            kept = RoundTensors.of(job, self.network.device, places), {}
        else:
            kept[0].load(job)
        self._kept[kind] = kept  # the latest is last
        for oldest in list(self._kept)[:-MOST_KINDS]:
            del self._kept[oldest]
        self._graphs = kept[1]
        return kept[0]

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
            privacy: gives the rule of the clip; its norm is the tensors'.
            tensors: of the round.
            ghosts: names of the tensors with ghost norms.

        Returns:
            Rows computed, filling included.
        """
        lengths = np.asarray(self.examples.lengths)[rows]
        layout, usual = self._usual.holding(lengths)
        inputs = self._inputs(slots, rows, layout)
        shapes, words = shapes_of(inputs), packed(inputs)
        tape = Tape(inputs["slots"].numpy(), len(tensors.flat), ghosts)

        def work(words: Tensor) -> None:
            self._pass(unpacked(words, shapes), layout, privacy, tensors, tape)

        key = (layout, privacy and privacy.clip, shapes)
        alike = usual and len(inputs["values"]) == layout.examples
        if self.graph is None or ghosts or not alike:
            work(words.to(self.network.device))
        elif key in self._graphs:
            self._graphs[key].replay(words)
        else:
            sums, graph = (tensors.total, tensors.counts), self.graph(self.network.device)
            self._graphs[key] = Captured.of(work, words, sums, graph, self._beside)
        return len(layout.owner)

    @property
    def _beside(self) -> Graph | None:
        """A graph whose memory another one may share: any that is there."""
        of_all = (captured for _, graphs in self._kept.values() for captured in graphs.values())
        return next((captured.graph for captured in of_all), None)

    def _inputs(self, slots: np.ndarray, rows: np.ndarray, layout: Layout) -> Tensors:
        """Everything that differs between micro-batches of one layout, on the CPU."""
        laid_out = Packed.of(*self.examples.packed(rows), layout)
        targets = self.examples.targets.batch(_filled(rows, layout.examples))
        inputs = {name: getattr(laid_out, name) for name in LAID_OUT}
        assert layout.keys is not None
        inputs |= {
            "keys": layout.keys,
            "values": targets.values,
            "owner": targets.owner,
            "tokens": targets.positions,
            "weights": targets.weights,
            "slots": torch.from_numpy(_filled(slots, layout.examples)),
            "exists": torch.arange(layout.examples) < len(rows),
        }
        return inputs

    def _pass(
        self,
        batch: Tensors,
        layout: Layout,
        privacy: ExamplePrivacy | None,
        tensors: RoundTensors,
        tape: Tape,
    ) -> None:
        """Forward, backward, clip and sum; no value is looked at, no shape depends on one."""
        if privacy is not None:
            privacy = replace(privacy, max_grad_norm=tensors.clip)
        layout = replace(layout, keys=batch["keys"])
        values, examples, tokens, weights = (batch[name] for name in TARGETS)
        targets = BatchTargets(values, examples, tokens, weights, len(batch["slots"]))
        laid_out = {name: batch[name] for name in LAID_OUT}
        inputs = Packed(**laid_out, layout=layout, heads=layout.heads())
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
