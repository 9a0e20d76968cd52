"""Shares a step among processes and adds up what they summed: equal on all of them, to the bit.

The sums of DP-SGD are additive over units of privacy. So every process (*rank*) holds the same job,
takes its share of a step's units, and one sum over all ranks comes before noise, divisor and
optimiser, which every rank then does alike. A unit is never divided: its halves, each clipped to
C, would add up to 2 C. Noise comes after the sum, in the precision that hides its grid. Where whole
clients can be dealt out as evenly, each rank trains its own to the end, and nothing is summed.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ffalora_cli.config.errors import RunFailed
from ffalora_cli.engine.job import LocalJob, LocalResult, StepBatches

JOIN = timedelta(minutes=5)  # until all ranks are there
PATIENCE = timedelta(minutes=30)  # for what one rank does alone: reading data, writing a round
EVEN = 1.03  # of the mean load: whole clients are dealt out where the largest is within it
Part = TypeVar("Part")


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, seen from one of them; without arguments there is only this one.

    Attributes:
        rank: of this process, from 0.
        world: how many there are.
        store: holds why a rank ended (``torch.distributed.Store``).
    """

    rank: int = 0
    world: int = 1
    store: Any = None

    @staticmethod
    def join(on_gpu: bool) -> Ranks:
        """Meet the others where ``MASTER_ADDR`` and ``MASTER_PORT`` say, as torchrun sets them.

        Args:
            on_gpu: whether sums lie on a GPU, one for each rank; messages never do.
        """
        store, rank, world = next(dist.rendezvous("env://", timeout=JOIN))
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
        return Ranks(rank, world, store)

    def share(self, pairs: StepBatches, lengths: np.ndarray) -> StepBatches:
        """This rank's units of a step, in their order; with no other rank all of them."""
        if self.world == 1:
            return pairs
        mine = owners(pairs, lengths, self.world) == self.rank
        units = None if pairs.units is None else pairs.units[mine]
        return StepBatches(pairs.slots[mine], pairs.rows[mine], units)

    def turns(self, parts: Sequence[Part]) -> Sequence[Part]:
        """This rank's of some pieces of work of about one size."""
        return parts[self.rank :: self.world]

    def add(self, total: Tensor) -> None:
        """Make ``total`` the sum of all ranks' in place, on its device."""
        if self.world == 1:
            return
        with self._reaching():
            if total.is_cuda:  # a process that is gone: gloo says so at once, NCCL would wait
                dist.all_reduce(torch.zeros(1))
            dist.all_reduce(total)

    def added(self, values: np.ndarray) -> np.ndarray:
        """The sum of all ranks' arrays of numbers, a new one."""
        total = torch.tensor(values)
        self.add(total)
        return total.numpy()

    def every(self, values: np.ndarray) -> np.ndarray:
        """Every rank's array of numbers, ``[world, ...]``."""
        table = np.zeros((self.world, *values.shape), values.dtype)
        table[self.rank] = values
        return self.added(table)

    def joined(self, part: LocalResult, slots: np.ndarray, count: int) -> LocalResult:
        """The result of all ``count`` clients, from this rank's ``slots`` and the others'.

        Raises:
            RunFailed: a client was trained by two ranks or by none, or ranks hold other results.
        """

        def whole(values: np.ndarray) -> np.ndarray:
            table = np.zeros((count, *values.shape[1:]), values.dtype)
            table[slots] = values
            return self.added(table)

        if (whole(np.ones(len(slots), np.int64)) != 1).any():
            raise RunFailed(
                "ranks dealt out the clients otherwise, likely another version of a library; start "
                "all ranks on equal ones"
            )
        fields = ("loss_sum", "examples", "units", "clipped", "nonfinite")
        counts: dict[str, Any] = {name: whole(getattr(part, name)) for name in fields}
        tally = np.array([part.tokens, part.padded_tokens, part.halvings])
        tokens, padded, halvings = self.added(tally).tolist()
        trained = {n: torch.from_numpy(whole(v.numpy())) for n, v in part.trained.items()}
        self.check_same([*trained.values()], "results of all clients")
        return replace(
            part,
            trained=trained,
            tokens=tokens,
            padded_tokens=padded,
            halvings=halvings,
            **counts,
        )

    def check_same(self, values: Sequence[Tensor], what: str) -> None:
        """Compare a hash of ``values`` with every other rank's.

        Raises:
            RunFailed: they differ in a bit or more; ``what`` says what they are.
        """
        if self.world == 1:
            return
        mine = hashlib.blake2b(digest_size=16)
        for value in values:
            mine.update(value.detach().cpu().contiguous().numpy().data)
        marks = self.gather(mine.digest())
        other = [rank for rank, mark in enumerate(marks) if mark != marks[0]]
        if other:
            raise RunFailed(
                f"{what} of rank {other[0]} differ from those of rank 0, likely another kind of "
                "machine or library; start all ranks on equal ones"
            )

    def gather(self, message: bytes) -> list[bytes]:
        """Every rank's message, on every rank."""
        sizes = self.every(np.array(len(message)))
        padded = message.ljust(int(sizes.max()), b"\0")
        rows = self.every(np.array(list(padded), np.uint8))
        return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]

    def tell(self, message: bytes = b"") -> bytes:
        """The message of rank 0, on every rank."""
        if self.world == 1:
            return message
        size = torch.tensor(len(message))
        with self._reaching():
            dist.broadcast(size, 0)
            content = torch.zeros(int(size), dtype=torch.uint8)
            if message:
                content.copy_(torch.frombuffer(bytearray(message), dtype=torch.uint8))
            dist.broadcast(content, 0)
        return content.numpy().tobytes()

    def hand_out(self, value: Tensor) -> None:
        """Make ``value`` what rank 0 has there, in place, on its device."""
        with self._reaching():
            dist.broadcast(value, 0)

    def leave(self, why: str = "") -> None:
        """End of this process's part; ``why`` is what the others report, if it is not the end."""
        if self.world == 1:
            return
        if why:
            self.store.set(f"why/{self.rank}", why)
        dist.destroy_process_group()

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """The others are there, or the run ends.

        Raises:
            RunFailed: one of them is gone.
        """
        try:
            yield
        except RuntimeError as error:
            others = range(1, self.world) if self.rank == 0 else ()  # it alone reports
            said = [rank for rank in others if self.store.check([f"why/{rank}"])]
            what = "another process of this run is gone, likely killed or out of memory"
            if said:
                why = self.store.get(f"why/{said[0]}").decode()
                what = f"rank {said[0]} gave up, likely for a reason of its own: {why}"
            raise RunFailed(f"{what}; the same command goes on") from error


ALONE = Ranks()


def owners(pairs: StepBatches, lengths: np.ndarray, world: int) -> np.ndarray:
    """Which rank takes each pair of a step, int64 ``[pairs]``; all pairs of a unit go together.

    The unit with most tokens comes first, each to the rank that has fewest so far: the same on all
    ranks, and even to about the tokens of a short unit.
    """
    units = np.arange(len(pairs.rows)) if pairs.units is None else pairs.units
    return dealt(np.bincount(units, np.asarray(lengths)[pairs.rows]), world)[units]


def owners_of_clients(job: LocalJob, lengths: np.ndarray, world: int) -> np.ndarray | None:
    """Which rank takes each client for the whole job, int64 ``[clients]``; None if not evenly so.

    Many clients can be dealt out as evenly as their units: then nothing is summed between steps.
    """
    tokens, count = np.zeros(len(job.clients)), len(job.clients)
    for step in job.batches:
        tokens += np.bincount(step.slots, np.asarray(lengths)[step.rows], count)
    owner = dealt(tokens, world)
    loads = np.bincount(owner, tokens, world)
    return owner if loads.min() > 0 and loads.max() <= EVEN * loads.mean() else None


def dealt(tokens: np.ndarray, world: int) -> np.ndarray:
    """Rank of each piece of work: the largest first, each to who has least so far; int64."""
    loads, owner = [(0, rank) for rank in range(world)], np.zeros(len(tokens), np.int64)
    for piece in np.argsort(-tokens, kind="stable").tolist():
        load, rank = loads[0]
        owner[piece] = rank
        heapq.heapreplace(loads, (load + int(tokens[piece]), rank))
    return owner


def of_clients(job: LocalJob, slots: np.ndarray) -> LocalJob:
    """The same job for some of its clients; keyed draws do not notice."""
    place = np.full(len(job.clients), -1)
    place[slots] = np.arange(len(slots))
    batches = []
    for step in job.batches:
        mine = place[step.slots] >= 0
        units = None if step.units is None else step.units[mine]
        batches.append(StepBatches(place[step.slots[mine]], step.rows[mine], units))
    privacy = job.privacy and replace(
        job.privacy,
        noise_sd=job.privacy.noise_sd[slots],
        expected_batch=job.privacy.expected_batch[slots],
    )
    return replace(
        job,
        clients=job.clients[slots],
        batches=batches,
        start={n: v[torch.from_numpy(slots)] for n, v in job.start.items()},
        privacy=privacy,
        extents=job.extents and {n: e[slots] for n, e in job.extents.items()},
    )
