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

TOLERANCE = 0.02  # relative, of sums: in bf16 a kernel chosen otherwise; twice or never is 1


class Graph(Protocol):
    """What can hold work back: ``CudaGraph``, or a stand-in on a machine without a GPU."""

    def capture(self, work: Callable[[], None], beside: Graph | None) -> None:
        """Take down ``work`` without running it; memory is shared with the graph ``beside``."""

    def replay(self) -> None:
        """Run it on what its tensors hold now."""


class CudaGraph:
    """A graph of one device, whichever is the current one."""

    _graph: torch.cuda.CUDAGraph

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def capture(self, work: Callable[[], None], beside: Graph | None) -> None:
        """Take down ``work`` without running it.

        Graphs run one after another and leave nothing behind but sums outside of their memory, so
        all of them have one pool of it: as much as the largest needs, not as all of them together.

        Raises:
            RunFailed: nothing was taken down.
        """
        pool = beside._graph.pool() if isinstance(beside, CudaGraph) else None
        with (
            torch.cuda.device(self.device),
            torch.cuda.stream(torch.cuda.current_stream(self.device)),  # again, if capturing fails
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("error", message=".*CUDA Graph is empty")
            torch.cuda.synchronize()
            self._graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
            try:
                # Other threads (NCCL's, which watches over sums) may go on meanwhile.
                captured = torch.cuda.graph(
                    self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"
                )
                with captured:
                    work()
            except UserWarning as empty:
                raise _broken("is empty") from empty

    def replay(self) -> None:
        """Run it on what its tensors hold now."""
        with torch.cuda.device(self.device):
            self._graph.replay()


@dataclass(frozen=True)
class Captured:
    """A graph and the buffer that it reads."""

    graph: Graph
    words: Tensor  # int32, on the device

    @staticmethod
    def of(
        work: Callable[[Tensor], None],
        words: Tensor,
        sums: Sequence[Tensor],
        graph: Graph,
        beside: Graph | None = None,
    ) -> Captured:
        """Capture ``work`` and do it: without the graph first, then by the replay that counts.

        Args:
            work: adds to ``sums`` in place and changes nothing else.
            words: what it reads, int32 on the CPU.
            sums: all that ``work`` adds to, on the device; in the end it has done so once.
            graph: nothing captured yet.
            beside: one that has been.

        Raises:
            RunFailed: a replay is not the work (a capture that ran it left an empty graph).
        """
        before = [value.clone() for value in sums]
        _clear(sums)
        work(words.to(sums[0].device))
        eager = [value.clone() for value in sums]
        _clear(sums)
        # Other values than it will be replayed with: a graph that kept these would show.
        static = torch.zeros_like(words, device=sums[0].device)
        graph.capture(lambda: work(static), beside)
        _clear(sums)
        captured = Captured(graph, static)
        captured.replay(words)
        if not all(_close(found, value) for found, value in zip(sums, eager, strict=True)):
            raise _broken("does not repeat what was captured")
        for value, was in zip(sums, before, strict=True):
            value.add_(was)
        return captured

    def replay(self, words: Tensor) -> None:
        """The captured work on other values, which come from the CPU: nothing waits for them."""
        pinned = words.pin_memory() if self.words.is_cuda else words
        self.words.copy_(pinned, non_blocking=True)
        self.graph.replay()


Shapes = tuple[tuple[str, torch.dtype, torch.Size], ...]
"""Name, type and shape of each tensor in a buffer, in order."""


def shapes_of(inputs: Tensors) -> Shapes:
    """Of the buffer that these make."""
    return tuple((name, value.dtype, value.shape) for name, value in inputs.items())


def packed(inputs: Tensors) -> Tensor:
    """The tensors end to end as int32, so that one copy takes them all to a device.

    Whole numbers below 2^31, truth values, and fp32 by its bits.
    """
    parts = [
        value.view(torch.int32) if value.dtype == torch.float32 else value.int()
        for value in inputs.values()
    ]
    return torch.cat([part.flatten() for part in parts])


def unpacked(words: Tensor, shapes: Shapes) -> Tensors:
    """The tensors of a buffer, each in its type and shape, where the buffer is."""
    parts = words.split([shape.numel() for _, _, shape in shapes])
    return {
        name: (part.view(dtype) if dtype == torch.float32 else part.to(dtype)).view(shape)
        for part, (name, dtype, shape) in zip(parts, shapes, strict=True)
    }


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
