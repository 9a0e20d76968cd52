"""The stacked engine: every example carries a copy of its client's factors (design section 3)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ffalora_cli.data.batches import StepBatches
from ffalora_cli.data.microbatch import cut, padded_tokens
from ffalora_cli.engine.dropout import keyed_dropout
from ffalora_cli.engine.job import ExamplePrivacy, LocalJob, LocalResult
from ffalora_cli.models.network import Network
from ffalora_cli.privacy.example_level import clip_factors, noise_stack
from ffalora_cli.types import Examples, Stack, Tensors

MEMORY_BYTES = 256 * 2**20  # of gathered copies and their gradients in one micro-batch


@dataclass
class _Tally:
    """Per-client counts of a round, kept on the device until the round ends."""

    loss: Tensor  # [clients]
    seen: Tensor
    clipped: Tensor
    nonfinite: Tensor
    tokens: int = 0
    padded: int = 0

    @staticmethod
    def zeros(clients: int, device: torch.device) -> _Tally:
        """Nothing counted yet."""
        empty = torch.zeros(4, clients, device=device, dtype=torch.float64)
        return _Tally(empty[0], empty[1], empty[2], empty[3])


@dataclass
class StackedEngine:
    """Trains all clients of a cohort in one pass.

    Attributes:
        network: frozen model with sites.
        examples: the training set.
        max_tokens: tokens of a micro-batch, padding included.
    """

    network: Network
    examples: Examples
    max_tokens: int = 512
    _labels: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._labels = torch.tensor(np.asarray(self.examples.labels)).to(self.network.device)

    def train(self, job: LocalJob) -> LocalResult:
        """One round: ``local_steps`` optimiser steps of every client at once.

        Returns:
            New values of the trainable tensors ``[clients, ...]`` and per-client counts.
        """
        device = self.network.device
        clients = len(job.clients)
        layout = {name: tuple(job.start[name].shape[1:]) for name in job.trainable}
        flat = nn.Parameter(
            torch.cat([job.start[n].reshape(clients, -1).float() for n in job.trainable], 1).to(
                device
            )
        )  # [clients, P]
        trained = _views(flat.data, layout)
        held = {n: v.to(device) for n, v in job.start.items() if n not in layout}
        common = {n: v.to(device) for n, v in job.common.items()}
        optimizer = job.optimizer.build([flat])
        tally = _Tally.zeros(clients, device)
        for step, pairs in enumerate(job.batches):
            total = torch.zeros_like(flat)  # [clients, P] sum of clipped per-example gradients
            self._accumulate(job, step, pairs, trained, held, common, _views(total, layout), tally)
            _privatise(job, step, pairs, total, layout)
            flat.grad = total
            optimizer.step()
        return LocalResult(
            trained={n: v.clone() for n, v in trained.items()},
            loss_sum=tally.loss.cpu().numpy(),
            examples=tally.seen.cpu().numpy().astype(np.int64),
            clipped=tally.clipped.cpu().numpy().astype(np.int64),
            nonfinite=tally.nonfinite.cpu().numpy().astype(np.int64),
            tokens=tally.tokens,
            padded_tokens=tally.padded,
        )

    def _accumulate(
        self,
        job: LocalJob,
        step: int,
        pairs: StepBatches,
        trained: Stack,
        held: Stack,
        common: Tensors,
        total: Stack,
        tally: _Tally,
    ) -> None:
        """Add every micro-batch's clipped per-example gradients to its clients' sums."""
        if not len(pairs.rows):
            return  # an empty step is noise only: a transformer given zero examples crashes
        lengths = np.asarray(self.examples.lengths)[pairs.rows]
        per_example = sum(v[0].numel() for v in trained.values())
        max_examples = max(1, MEMORY_BYTES // (8 * per_example))
        packed = self.network.packs and job.dropout == 0
        for batch in cut(lengths, self.max_tokens, max_examples, packed):
            job.poll()
            slots, rows = pairs.slots[batch], pairs.rows[batch]
            if job.dropout > 0:
                self.network.with_dropout(keyed_dropout(job, step, slots, rows))
            losses, grads = self.per_example_gradients(slots, rows, trained, held, common)
            self.network.with_dropout(None)
            _add_clipped(job.privacy, slots, losses, grads, total, tally)
            tally.tokens += int(lengths[batch].sum())
            tally.padded += padded_tokens(lengths[batch], packed)

    def per_example_gradients(
        self, slots: np.ndarray, rows: np.ndarray, trained: Stack, held: Stack, common: Tensors
    ) -> tuple[Tensor, Stack]:
        """Losses and exact per-example gradients of one micro-batch.

        Args:
            slots: int64 [examples], each example's client in the stacks.
            rows: int64 [examples], longest first.
            trained: ``[clients, ...]``, differentiated.
            held: ``[clients, ...]``, different between clients but not trained now.
            common: plain shapes.

        Returns:
            Losses ``[examples]`` and gradients ``[examples, ...]`` by name.
        """
        device = self.network.device
        index = torch.from_numpy(slots).to(device)
        leaves = {n: v.index_select(0, index).requires_grad_() for n, v in trained.items()}
        copies = {n: v.index_select(0, index) for n, v in held.items()}
        logits = self.network.logits(self.examples, rows, {**common, **copies, **leaves})
        labels = self._labels[torch.from_numpy(rows).to(device)]
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        grads = torch.autograd.grad(losses.sum(), list(leaves.values()))
        return losses.detach(), dict(zip(leaves, grads, strict=True))


def _add_clipped(
    privacy: ExamplePrivacy | None,
    slots: np.ndarray,
    losses: Tensor,
    grads: Stack,
    total: Stack,
    tally: _Tally,
) -> None:
    """Clip rows by their joint norm and add them to their client's sum, in place.

    A non-finite row is replaced, never multiplied by zero (0 × NaN would spread in the product).
    """
    device = losses.device
    squares = sum(g.flatten(1).square().sum(1) for g in grads.values())  # [examples]
    assert isinstance(squares, Tensor)
    finite = torch.isfinite(squares) & torch.isfinite(losses)
    if privacy is None:
        factors = finite.float()
    else:
        factors = torch.where(finite, clip_factors(squares, privacy.max_grad_norm), 0.0)
    unique, inverse = np.unique(slots, return_inverse=True)
    where = torch.from_numpy(unique).to(device)
    one_hot = torch.zeros(len(unique), len(slots), device=device)
    one_hot[torch.from_numpy(inverse).to(device), torch.arange(len(slots), device=device)] = 1.0
    weights = one_hot * factors  # [clients here, examples]
    # Looking at the flags would make a GPU wait, so there the rows are always replaced.
    clean = device.type == "cpu" and bool(finite.all())
    for name, grad in grads.items():
        rows = grad.flatten(1)
        if not clean:
            rows = torch.where(finite[:, None], rows, 0.0)
        added = (weights @ rows).view(len(unique), *grad.shape[1:])
        total[name].index_add_(0, where, added)
    counts = torch.stack(
        [
            torch.where(finite, losses, 0.0).double(),
            torch.ones_like(losses).double(),
            (finite & (factors < 1.0)).double(),
            (~finite).double(),
        ]
    )
    sums = counts @ one_hot.t().double()  # [4, clients here]
    for row, target in zip(
        sums, (tally.loss, tally.seen, tally.clipped, tally.nonfinite), strict=True
    ):
        target.index_add_(0, where, row)


def _privatise(
    job: LocalJob, step: int, pairs: StepBatches, total: Tensor, layout: dict[str, tuple[int, ...]]
) -> None:
    """Turn sums into the gradient of the step, in place: noise, then the divisor."""
    clients = len(job.clients)
    if job.privacy is None:
        sizes = np.bincount(pairs.slots, minlength=clients)
        divisor = torch.from_numpy(np.maximum(sizes, 1)).to(total)
    else:
        noise = noise_stack(
            layout,
            job.clients.tolist(),
            torch.from_numpy(job.privacy.noise_sd),
            job.privacy.secret,
            job.round,
            step,
            total.device,
        )
        for name, view in _views(total, layout).items():
            view.add_(noise[name])
        divisor = torch.from_numpy(job.privacy.expected_batch).to(total)
    total /= divisor[:, None]


def _views(flat: Tensor, layout: dict[str, tuple[int, ...]]) -> Stack:
    """Named views of ``[clients, P]``; writing to a view writes to ``flat``."""
    views: Stack = {}
    start = 0
    for name, shape in layout.items():
        size = int(np.prod(shape))
        views[name] = flat[:, start : start + size].unflatten(1, shape)
        start += size
    return views
