"""Trains all clients in one batch: every example carries a copy of its client's factors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ffalora_cli.adapters.context import Factor
from ffalora_cli.adapters.ghost import Tape
from ffalora_cli.engine.dropout import keyed_dropout
from ffalora_cli.engine.gradients import MicroBatch, gradients
from ffalora_cli.engine.job import LocalJob, LocalResult, StepBatches
from ffalora_cli.engine.memory import copy_bytes, out_of_memory
from ffalora_cli.engine.microbatch import cut, deal, padded_tokens
from ffalora_cli.engine.model_dropout import model_dropout
from ffalora_cli.engine.ranks import ALONE, Ranks, of_clients, owners_of_clients
from ffalora_cli.engine.sharding import Shares
from ffalora_cli.engine.stacked import clipped_sums, unit_sums
from ffalora_cli.engine.stacked.clipped_sums import CLIPPED, LOSS, NONFINITE, ROWS, UNITS
from ffalora_cli.engine.stacked.cost import ghost_tensors
from ffalora_cli.engine.stacked.fixed import FixedShapes
from ffalora_cli.engine.stacked.graphs import CudaGraph
from ffalora_cli.engine.stacked.round_tensors import RoundTensors
from ffalora_cli.engine.stacked.unit_sums import Sums, single_rows
from ffalora_cli.models.network import Network
from ffalora_cli.privacy.mechanism import example_level
from ffalora_cli.types import Examples, Stack

SEAMS = ("_privatise", "StackedEngine.train")
"""What an audit may replace; whoever calls it looks it up in this module."""
NOISED_AT_ONCE = 16  # clients: noise still in the cache when added, no block of all [clients, P]
Passed = TypeVar("Passed")
MOST_HALVINGS = 3  # of micro-batches in one round, before running out of memory ends the run


@dataclass
class StackedEngine:
    """Trains all clients of a cohort in one pass.

    Attributes:
        network: frozen model with sites.
        examples: the training set.
        max_tokens: tokens of a micro-batch, padding included; halved when memory runs out. What
            room there is for per-example copies follows from it.
        fixed: whether micro-batches are rounded up to a few shapes; on a GPU they are.
        ghost_norms: whether large tensors may use them; an observer who hands in gradients says no.
        ranks: processes that train the same jobs, each its share of every step.
        shares: of the model's layers, where each process holds one.
    """

    network: Network
    examples: Examples
    max_tokens: int = 512
    fixed: bool = False
    ghost_norms: bool = True
    ranks: Ranks = ALONE
    shares: Shares | None = None
    _shapes: FixedShapes = field(init=False)

    def __post_init__(self) -> None:
        self.fixed = self.fixed or self.network.device.type == "cuda"
        # Where memory is short, kernels are long: their launches cost little.
        short = self.network.recomputes or self.network.sharded
        captures = self.network.device.type == "cuda" and not short
        graph = CudaGraph if captures else None
        self._shapes = FixedShapes(self.network, self.examples, graph)

    def train(self, job: LocalJob) -> LocalResult:
        """One round: ``local_steps`` optimiser steps of every client at once.

        Returns:
            New values of the trainable tensors ``[clients, ...]`` and per-client counts.
        """
        self.max_tokens = began = min(self.max_tokens, job.max_tokens or self.max_tokens)
        lengths, world = self.examples.lengths, self.ranks.world
        owner = None if world == 1 else owners_of_clients(job, lengths, world)
        if owner is None:
            result = self._train(job, self.ranks)
        else:
            mine = np.flatnonzero(owner == self.ranks.rank)
            part = self._train(of_clients(job, mine), ALONE)
            result = self.ranks.joined(part, mine, len(owner))
        # What one rank had no memory for, none does again.
        self.max_tokens = int(self.ranks.every(np.array(self.max_tokens)).min())
        return replace(result, max_tokens=self.max_tokens if self.max_tokens < began else None)

    def _train(self, job: LocalJob, sharing: Ranks) -> LocalResult:
        """``train``, every step shared with the other ranks, if there are any."""
        device = self.network.device
        captures = self._shapes.graph is not None
        tensors = self._shapes.tensors(job) if captures else RoundTensors.of(job, device)
        tally, clients = Tally(), len(job.clients)
        optimizer = job.optimizer.build([tensors.flat])
        if self.shares is not None:
            self.shares.learn(partial(self._nothing, tensors))
        for step, pairs in enumerate(job.batches):
            mine = sharing.share(pairs, self.examples.lengths)
            self._sum_with_backoff(job, step, mine, tensors, tally)
            sharing.add(tensors.total)
            _privatise(job, step, pairs, tensors)
            if job.optimizer.clip_gradients is not None:
                clipped_sums.cut_whole(tensors.total, job.optimizer.clip_gradients)
            tensors.flat.grad = tensors.total
            optimizer.step()
        counts = sharing.added(tensors.counts[:clients].cpu().numpy())  # [clients, 5]
        sharing.check_same([tensors.flat], f"round {job.round}: the clients' tensors")
        tokens, padded, halvings = sharing.added(np.array(astuple(tally))).tolist()
        return LocalResult(
            trained={n: v[:clients].to("cpu", copy=True) for n, v in tensors.trained.items()},
            loss_sum=counts[:, LOSS].copy(),
            examples=counts[:, ROWS].astype(np.int64),
            units=counts[:, UNITS].astype(np.int64),
            clipped=counts[:, CLIPPED].astype(np.int64),
            nonfinite=counts[:, NONFINITE].astype(np.int64),
            tokens=tokens,
            padded_tokens=padded,
            halvings=halvings,
        )

    def _sum_with_backoff(
        self, job: LocalJob, step: int, pairs: StepBatches, tensors: RoundTensors, tally: Tally
    ) -> None:
        """``_accumulate``; out of memory, the step is done again in micro-batches half the size."""
        before, counts = replace(tally), tensors.counts.clone()
        while True:
            tensors.total.zero_()
            try:
                self._accumulate(job, step, pairs, tensors, tally)
                return
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or tally.halvings == MOST_HALVINGS:
                    raise
            self._shapes.forget()
            if tensors.total.is_cuda:
                torch.cuda.empty_cache()
            tally.tokens, tally.padded = before.tokens, before.padded
            tally.halvings += 1
            tensors.counts.copy_(counts)
            self._halve(pairs)

    def _halve(self, pairs: StepBatches) -> None:
        """Half of what the largest micro-batch of the step may have had."""
        tokens = int(np.asarray(self.examples.lengths)[pairs.rows].sum())
        self.max_tokens = max(1, min(self.max_tokens, tokens) // 2)

    def _accumulate(
        self, job: LocalJob, step: int, pairs: StepBatches, tensors: RoundTensors, tally: Tally
    ) -> None:
        """Add every unit's clipped gradient to its client's sum."""
        totals, counts = tensors.totals, tensors.counts
        alone = single_rows(pairs)
        self._add_rows(job, step, alone, tensors, tally, Sums(alone.slots, totals, counts))
        most = max(1, copy_bytes(self.network, self.max_tokens) // (4 * tensors.total.shape[1]))
        for part in unit_sums.whole_units(pairs, most):
            sums = Sums.of_units(part, totals)
            self._add_rows(job, step, part, tensors, tally, sums)
            unit_sums.close_units(job.privacy, sums, totals, counts)
        if self.shares is not None:
            self.shares.wait(partial(self._nothing, tensors))

    def _add_rows(
        self,
        job: LocalJob,
        step: int,
        pairs: StepBatches,
        tensors: RoundTensors,
        tally: Tally,
        sums: Sums,
    ) -> None:
        """Add every micro-batch's clipped rows to ``sums``."""
        if not len(pairs.rows):
            return  # an empty step is noise only: a transformer given zero examples crashes
        lengths = np.asarray(self.examples.lengths)[pairs.rows]
        by_client = sums.slots is None  # ghosts and fixed shapes are summed by client alone
        room = copy_bytes(self.network, self.max_tokens)
        ghosts = self._ghosts(tensors, lengths, room) if by_client else frozenset()
        max_examples = max(1, room // max(_copied(tensors, ghosts), 1))
        packed = self.network.packs and not job.drops
        one_row = self.network.task.reads == "example"
        fixed = packed and self.fixed and by_client and one_row
        bounds = (lengths, self.max_tokens, max_examples)
        for batch in deal(*bounds) if fixed else cut(*bounds, packed):
            job.poll()
            slots, rows = pairs.slots[batch], pairs.rows[batch]
            tally.tokens += int(lengths[batch].sum())
            if fixed:
                work = partial(self._shapes.add, slots, rows, job.privacy, tensors, ghosts)
                tally.padded += self._pass(work)
                continue
            tape = Tape(slots, len(tensors.flat), ghosts)
            into = replace(sums, owner=sums.owner[batch])
            context = self.network.context
            masks = keyed_dropout(job, step, slots, rows)
            with self.network.dropping(masks, model_dropout(context, job, step, slots, rows)):
                self._pass(partial(self._add, job, rows, tensors, tape, into))
            class_rows = self.network.class_rows if packed else None
            tally.padded += padded_tokens(lengths[batch], class_rows)

    def _pass(self, work: Callable[[], Passed]) -> Passed:
        """Forward and backward of one micro-batch, by all ranks at once where they must be."""
        return work() if self.shares is None else self.shares.together(work)

    def _nothing(self, tensors: RoundTensors) -> None:
        """A pass over one row that is added to nothing."""
        shortest = np.array([np.asarray(self.examples.lengths).argmin()])
        none, common = np.zeros(1, np.int64), tensors.common
        self.per_example_gradients(none, shortest, tensors.trained, tensors.held, common)

    def _ghosts(self, tensors: RoundTensors, lengths: np.ndarray, room: int) -> frozenset[str]:
        """Names of the tensors with ghost norms.

        A graph cannot hold them (rows are grouped by client on the host), so there they are taken
        only where the copies of a step have no room.
        """
        fits = len(lengths) * _copied(tensors) <= room
        if not self.ghost_norms or (self._shapes.graph is not None and fits):
            return frozenset()
        one_row = self.network.head_names if self.network.task.reads == "example" else ()
        return ghost_tensors(tensors.layout, frozenset(one_row), lengths)

    def _add(
        self,
        job: LocalJob,
        rows: np.ndarray,
        tensors: RoundTensors,
        tape: Tape,
        sums: Sums,
    ) -> None:
        """Add one micro-batch; gradients of both kinds come from one backward pass."""
        trained, ghosts = tape.split(tensors.trained)
        common: Mapping[str, Factor] = {**tensors.common, **ghosts}
        losses, grads = self.per_example_gradients(tape.slots, rows, trained, tensors.held, common)
        owner = torch.from_numpy(sums.owner).to(self.network.device)
        into = (tape, sums.total, sums.counts)
        clipped_sums.add_clipped(job.privacy, owner, losses, grads, *into)

    def per_example_gradients(
        self,
        slots: np.ndarray,
        rows: np.ndarray,
        trained: Stack,
        held: Stack,
        common: Mapping[str, Factor],
    ) -> tuple[Tensor, Stack]:
        """``gradients`` of some rows, int64 [examples], longest first; slots int64 [examples]."""
        batch = MicroBatch.of(self.network, self.examples, slots, rows)
        return gradients(self.network, batch, trained, held, common)


@dataclass
class Tally:
    """What the host counts of a round."""

    tokens: int = 0
    padded: int = 0
    halvings: int = 0


def _copied(tensors: RoundTensors, ghosts: frozenset[str] = frozenset()) -> int:
    """Bytes of an example's own copies of factors and of their gradients, fp32."""
    trained = sum(int(np.prod(s)) for n, s in tensors.layout.items() if n not in ghosts)
    return 8 * trained + 4 * sum(int(v[0].numel()) for v in tensors.held.values())


def _privatise(job: LocalJob, step: int, pairs: StepBatches, tensors: RoundTensors) -> None:
    """Turn sums into the gradient of the step, in place: noise, then the divisor."""
    clients = len(job.clients)
    total = tensors.total[:clients]
    if job.privacy is None:
        sizes = np.maximum(np.bincount(pairs.slots, minlength=clients), 1)
    else:
        for first in range(0, clients, NOISED_AT_ONCE):
            some = slice(first, first + NOISED_AT_ONCE)
            noise = example_level.step_noise(
                tensors.layout,
                job.clients[some].tolist(),
                job.privacy.noise_sd[some],
                job.privacy.secret,
                job.round,
                step,
                total.device,
                None if job.extents is None else {n: e[some] for n, e in job.extents.items()},
            )
            total[some].add_(noise)
        sizes = job.privacy.expected_batch
    divisor = torch.from_numpy(sizes).to(total.dtype)[:, None]
    if total.is_cuda:
        divisor = divisor.pin_memory().to(total.device, non_blocking=True)  # the host goes on
    total /= divisor
