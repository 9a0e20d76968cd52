"""Captures work once, replays it on other values, and proves that a replay is that work.

A capture runs nothing. If it does all the same (kernels of another device than the current one are
executed, not captured), what it computed would be counted a second time, and its replays, of an
empty graph, never: a sum that one example moves by twice the clip. So no graph is used before its
first replay gave what the same work gave without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ffalora_cli.config.errors import RunFailed
from ffalora_cli.types import Tensors

TOLERANCE = 1e-3  # relative, of sums: replays use the same kernels, additions may change places


class Graph(Protocol):
    """What can hold work back: ``CudaGraph``, or a stand-in on a machine without a GPU."""

    def capture(self, work: Callable[[], None]) -> None:
        """Take down ``work`` without running it."""

    def replay(self) -> None:
        """Run it on what its tensors hold now."""


class CudaGraph:
    """A graph of one device, whichever is the current one."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def capture(self, work: Callable[[], None]) -> None:
        """Take down ``work`` without running it.

        Raises:
            RunFailed: nothing was taken down.
        """
        with torch.cuda.device(self.device), warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*CUDA Graph is empty")
            torch.cuda.synchronize()
            self._graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
            try:
                with torch.cuda.graph(self._graph, stream=stream):
                    work()
            except UserWarning as empty:
                raise _broken("is empty") from empty

    def replay(self) -> None:
        """Run it on what its tensors hold now."""
        with torch.cuda.device(self.device):
            self._graph.replay()


@dataclass(frozen=True)
class Captured:
    """A graph and the tensors it reads."""

    graph: Graph
    inputs: Tensors

    @staticmethod
    def of(
        work: Callable[[Tensors], None],
        inputs: Tensors,
        sums: Sequence[Tensor],
        device: torch.device,
        graph: Graph,
    ) -> Captured:
        """Capture ``work`` and do it, once: without the graph first, then by a replay to compare.

        Args:
            work: adds to ``sums`` in place and changes nothing else.
            inputs: on the CPU.
            sums: all that ``work`` adds to, on the device; ends with one more of ``work``.
            device: of the work.
            graph: nothing captured yet.

        Raises:
            RunFailed: a replay is not the work (a capture that ran it left an empty graph).
        """
        before = [value.clone() for value in sums]
        _clear(sums)
        work({name: value.to(device) for name, value in inputs.items()})
        eager = [value.clone() for value in sums]
        _clear(sums)
        # Other values than it will be replayed with: a graph that kept these would show.
        static = {name: torch.zeros_like(value, device=device) for name, value in inputs.items()}
        graph.capture(lambda: work(static))
        _clear(sums)
        captured = Captured(graph, static)
        captured.replay(inputs)
        if not all(_close(found, value) for found, value in zip(sums, eager, strict=True)):
            raise _broken("does not repeat what was captured")
        for value, was, found in zip(sums, before, eager, strict=True):
            value.copy_(was + found)
        return captured

    def replay(self, inputs: Tensors) -> None:
        """The captured work on other values, which come from the CPU."""
        for name, static in self.inputs.items():
            value = inputs[name].pin_memory() if static.is_cuda else inputs[name]
            static.copy_(value, non_blocking=True)
        self.graph.replay()


def _clear(sums: Sequence[Tensor]) -> None:
    for value in sums:
        value.zero_()


def _close(found: Tensor, value: Tensor) -> bool:
    """Whether two sums are one within rounding; both zero is."""
    return bool((found - value).norm() <= TOLERANCE * value.norm())


def _broken(what: str) -> RunFailed:
    return RunFailed(
        f"engine.device: a CUDA graph {what}, so a step's sum would count examples twice or never; "
        "this round was not released; choose the GPU by CUDA_VISIBLE_DEVICES, or engine.device=cpu"
    )
