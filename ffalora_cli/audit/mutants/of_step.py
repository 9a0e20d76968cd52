"""Mutants of one step: noise, clip, divisor; each takes what its seam does."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ffalora_cli.audit.mechanism.clip import BOUND
from ffalora_cli.audit.mutants.seams import MICRO_BATCH, NOISE, STEP_END, TRAINING, Change, Mutant
from ffalora_cli.engine.stacked.round_tensors import views
from ffalora_cli.privacy.mechanism import example_level
from ffalora_cli.types import Stack


def _noise(change: Callable[[str, Tensor], Tensor]) -> Change:
    """The noise as drawn, changed afterwards."""

    def changed(real, layout, *arguments):
        drawn = views(real(layout, *arguments), layout)
        return torch.cat([change(name, value).flatten(1) for name, value in drawn.items()], 1)

    return changed


def _one_seed_for_tensors(real, layout, *key):
    return torch.cat([real({name: shape}, *key) for name, shape in layout.items()], 1)


def _one_seed_for_clients(real, layout, clients, *key):
    return real(layout, [0] * len(clients), *key)


def _one_seed_for_rounds(real, layout, clients, sd, secret, round, *rest):
    return real(layout, clients, sd, secret, 0, *rest)


def _one_seed_for_steps(real, layout, clients, sd, secret, round, step, *rest):
    return real(layout, clients, sd, secret, round, 0, *rest)


def _uniform(name: str, values: Tensor) -> Tensor:
    """As much noise, of the wrong shape: each value's own quantile, made uniform."""
    rms = values.square().flatten(1).mean(1).sqrt().clamp(min=1e-30)
    unit = values / rms.view(-1, *[1] * (values.dim() - 1))
    share = torch.special.ndtr(unit)
    return (2.0 * share - 1.0) * 3.0**0.5 * (values / unit.where(unit != 0.0, 1.0))


class _EveryMicroBatch:
    """Draws a step's noise once for each of its micro-batches."""

    count = 0

    def add_clipped(self, real, *arguments):
        """Counts."""
        self.count += 1
        real(*arguments)

    def step_noise(self, real, layout, clients, sd, secret, round, step, *rest):
        """Draws."""
        keys = [step + 10_000 * i for i in range(max(1, self.count))]
        self.count = 0
        return sum(real(layout, clients, sd, secret, round, key, *rest) for key in keys)


def _noise_after_optimizer(real, engine, job):
    sd, private = job.privacy.noise_sd, job.privacy
    result = real(engine, replace(job, privacy=replace(private, noise_sd=np.zeros_like(sd))))
    layout = {name: tuple(job.start[name].shape[1:]) for name in job.trainable}
    scale = sd * job.optimizer.lr / private.expected_batch
    for step in range(len(job.batches)):
        noise = example_level.step_noise(
            layout, job.clients.tolist(), scale, private.secret, job.round, step
        )
        for name, value in views(noise, layout).items():
            result.trained[name] += value
    return result


def _clip(tamper: Callable[[float, Tensor, Stack], Stack]) -> Change:
    """Another clip: what ``tamper(C, slots, gradients of a micro-batch)`` returns is summed."""

    def add_clipped(real, privacy, slots, losses, grads, *rest):
        real(None, slots, losses, tamper(privacy.max_grad_norm, slots, grads), *rest)

    return add_clipped


def _cut(grads: Stack, norms: Tensor, clip: float) -> Stack:
    """Rows of these norms cut as the real code does; zero where a norm is not finite."""
    factors = torch.where(torch.isfinite(norms), (clip / (norms + 1e-6)).clamp(max=1.0), 0.0)
    return {n: g * factors.float().view(-1, *[1] * (g.dim() - 1)) for n, g in grads.items()}


def _norms(grads: Stack) -> Tensor:
    return torch.stack([g.flatten(1).square().sum(1) for g in grads.values()]).sum(0).sqrt()


def _batch_mean(clip: float, slots: Tensor, grads: Stack) -> Stack:
    same = (slots[:, None] == slots[None, :]).float()
    same /= same.sum(1, keepdim=True)
    mean = {n: torch.tensordot(same, g, dims=1) for n, g in grads.items()}
    return _cut(mean, _norms(mean), clip)


def _per_tensor(clip: float, slots: Tensor, grads: Stack) -> Stack:
    return {n: _cut({n: g}, _norms({n: g}), clip)[n] for n, g in grads.items()}


def _bf16_norm(clip: float, slots: Tensor, grads: Stack) -> Stack:
    return _cut(grads, _norms(grads).bfloat16(), clip)


def _biases_free(clip: float, slots: Tensor, grads: Stack) -> Stack:
    clipped = {n: g for n, g in grads.items() if g.dim() > 2}
    return grads | _cut(clipped, _norms(clipped), clip)


def _nan_spreads(clip: float, slots: Tensor, grads: Stack) -> Stack:
    clipped = _cut(grads, _norms(grads), clip)
    return {n: g + 0.0 * g.sum(0, keepdim=True) for n, g in clipped.items()}


def _after(change: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Change:
    """The step's gradient changed after noise and divisor.

    ``change(total [clients, P], expected batch, realised batch)``, the batches ``[clients, 1]``.
    """

    def privatise(real, job, step, pairs, tensors):
        real(job, step, pairs, tensors)
        sizes = np.bincount(pairs.slots, minlength=len(job.clients))
        expected, realised = (
            torch.from_numpy(batch).float()[:, None]
            for batch in (job.privacy.expected_batch, sizes)
        )
        tensors.total.copy_(change(tensors.total, expected, realised))

    return privatise


_repeated = _EveryMicroBatch()
_SD, _FINITE = "noise sd per tensor", "non-finite examples count as zero"
_DIVISOR, _EMPTY = "divisor is the expected batch", "empty batches are noise-only steps"
MUTANTS = (
    Mutant("noise × 0.95", _SD, {NOISE: _noise(lambda n, v: 0.95 * v)}),
    Mutant(
        "head without noise", _SD, {NOISE: _noise(lambda n, v: v * (not n.startswith("head.")))}
    ),
    Mutant("one seed for all tensors", "noise across tensors", {NOISE: _one_seed_for_tensors}),
    Mutant("one seed for all clients", "noise across clients", {NOISE: _one_seed_for_clients}),
    Mutant("one seed for all rounds", "noise across rounds", {NOISE: _one_seed_for_rounds}),
    Mutant("one seed for all steps", "noise across steps", {NOISE: _one_seed_for_steps}),
    Mutant(
        "one value of noise for a whole row",
        "noise norms",
        {NOISE: _noise(lambda n, v: v[..., :1].expand_as(v))},
    ),
    Mutant("uniform instead of Gaussian noise", "noise is Gaussian", {NOISE: _noise(_uniform)}),
    Mutant(
        "noise in every micro-batch",
        "noise sd, full batches",
        {MICRO_BATCH: _repeated.add_clipped, NOISE: _repeated.step_noise},
    ),
    Mutant(
        "noise after the optimiser",
        "uploads follow from noised gradients",
        {TRAINING: _noise_after_optimizer},
    ),
    Mutant("clip of the batch's mean gradient", BOUND, {MICRO_BATCH: _clip(_batch_mean)}),
    Mutant("clip of each tensor by itself", BOUND, {MICRO_BATCH: _clip(_per_tensor)}),
    Mutant("clip norm in bfloat16", BOUND, {MICRO_BATCH: _clip(_bf16_norm)}),
    Mutant("no clip for one-dimensional tensors", BOUND, {MICRO_BATCH: _clip(_biases_free)}),
    Mutant("a NaN times zero", _FINITE, {MICRO_BATCH: _clip(_nan_spreads)}),
    Mutant(
        "divided by the batch twice",
        _DIVISOR,
        {STEP_END: _after(lambda total, expected, realised: total / expected)},
    ),
    Mutant(
        "divided by the realised batch",
        _DIVISOR,
        {
            STEP_END: _after(
                lambda total, expected, realised: total * expected / realised.clamp(min=1.0)
            )
        },
    ),
    Mutant(
        "empty batches skipped",
        _EMPTY,
        {STEP_END: _after(lambda total, expected, realised: total * (realised > 0))},
    ),
)
