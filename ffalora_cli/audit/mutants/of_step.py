"""Mutants of one step: noise, clip, divisor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ffalora_cli.audit.mechanism.clip import BOUND
from ffalora_cli.audit.mutants import seams
from ffalora_cli.audit.mutants.seams import Mutant
from ffalora_cli.engine.job import ExamplePrivacy
from ffalora_cli.types import Stack

Broken = Callable[[], AbstractContextManager[None]]
Tamper = Callable[[ExamplePrivacy, Tensor, Stack], Stack]
"""(privacy, slots, gradients of a micro-batch) -> gradients that are only added up."""


def _noise(change: Callable[[Stack], Stack]) -> Broken:
    """The noise as drawn, changed afterwards."""

    def wrap(real: Any) -> Any:
        return lambda *arguments: change(real(*arguments))

    return lambda: seams.noise(wrap)


def _same(**fixed: Any) -> Broken:
    """Some coordinates of the noise's key left out."""

    def wrap(real: Any) -> Any:
        def noise_stack(shapes, clients, sd, secret, round, step, device):  # type: ignore[no-untyped-def]
            key = {"round": round, "step": step} | fixed
            if key.pop("client", None) is not None:
                clients = [fixed["client"]] * len(clients)
            if key.pop("tensor", None) is None:
                return real(shapes, clients, sd, secret, key["round"], key["step"], device)
            return {
                name: real({"": shape}, clients, sd, secret, key["round"], key["step"], device)[""]
                for name, shape in shapes.items()
            }

        return noise_stack

    return lambda: seams.noise(wrap)


def _clip(tamper: Tamper) -> Broken:
    """Another clip: what it returns is summed as it is."""

    def wrap(real: Any) -> Any:
        def add_clipped(privacy, slots, losses, grads, *rest):  # type: ignore[no-untyped-def]
            real(None, slots, losses, tamper(privacy, slots, grads), *rest)

        return add_clipped

    return lambda: seams.micro_batch(wrap)


def _scaled(grads: Stack, factors: Tensor) -> Stack:
    """Rows times their factors ``[examples]``."""
    return {n: g * factors.view(-1, *[1] * (g.dim() - 1)) for n, g in grads.items()}


def _norms(grads: Stack) -> Tensor:
    return torch.stack([g.flatten(1).square().sum(1) for g in grads.values()]).sum(0).sqrt()


def _cut(norms: Tensor, clip: float) -> Tensor:
    """Clip factors; zero for a norm that is not finite, as in the real code."""
    return torch.where(torch.isfinite(norms), (clip / (norms + 1e-6)).clamp(max=1.0), 0.0)


def _batch_mean(privacy: ExamplePrivacy, slots: Tensor, grads: Stack) -> Stack:
    same = (slots[:, None] == slots[None, :]).float()
    same /= same.sum(1, keepdim=True)
    mean = {n: torch.tensordot(same, g, dims=1) for n, g in grads.items()}
    return _scaled(mean, _cut(_norms(mean), privacy.max_grad_norm))


def _per_tensor(privacy: ExamplePrivacy, slots: Tensor, grads: Stack) -> Stack:
    return {
        n: _scaled({n: g}, _cut(_norms({n: g}), privacy.max_grad_norm))[n] for n, g in grads.items()
    }


def _bf16_norm(privacy: ExamplePrivacy, slots: Tensor, grads: Stack) -> Stack:
    return _scaled(grads, _cut(_norms(grads).bfloat16(), privacy.max_grad_norm).float())


def _biases_free(privacy: ExamplePrivacy, slots: Tensor, grads: Stack) -> Stack:
    clipped = {n: g for n, g in grads.items() if g.dim() > 2}
    return grads | _scaled(clipped, _cut(_norms(clipped), privacy.max_grad_norm))


def _nan_spreads(privacy: ExamplePrivacy, slots: Tensor, grads: Stack) -> Stack:
    clipped = _scaled(grads, _cut(_norms(grads), privacy.max_grad_norm))
    return {n: g + 0.0 * g.sum(0, keepdim=True) for n, g in clipped.items()}


def _uniform(values: Tensor) -> Tensor:
    """As much noise, of the wrong shape: each value's own quantile, made uniform."""
    rms = values.square().flatten(1).mean(1).sqrt().clamp(min=1e-30)
    unit = values / rms.view(-1, *[1] * (values.dim() - 1))
    share = torch.special.ndtr(unit)
    return (2.0 * share - 1.0) * 3.0**0.5 * (values / unit.where(unit != 0.0, 1.0))


def _after(change: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Broken:
    """The step's gradient changed after noise and divisor.

    ``change(total [clients, P], expected batch, realised batch)``, the batches ``[clients, 1]``.
    """

    def wrap(real: Any) -> Any:
        def privatise(job, step, pairs, tensors):  # type: ignore[no-untyped-def]
            real(job, step, pairs, tensors)
            total = tensors.total
            sizes = np.bincount(pairs.slots, minlength=len(job.clients))
            expected = torch.from_numpy(job.privacy.expected_batch).float()[:, None]
            total.copy_(change(total, expected, torch.from_numpy(sizes).float()[:, None]))

        return privatise

    return lambda: seams.step_end(wrap)


@contextmanager
def _noise_each_micro_batch() -> Iterator[None]:
    count = [0]

    def counting(real: Any) -> Any:
        def add_clipped(*arguments: Any) -> None:
            count[0] += 1
            real(*arguments)

        return add_clipped

    def repeated(real: Any) -> Any:
        def noise_stack(shapes, clients, sd, secret, round, step, device):  # type: ignore[no-untyped-def]
            keys = [step + 10_000 * i for i in range(max(1, count[0]))]
            count[0] = 0
            drawn = [real(shapes, clients, sd, secret, round, key, device) for key in keys]
            return {name: sum(one[name] for one in drawn) for name in shapes}

        return noise_stack

    with seams.micro_batch(counting), seams.noise(repeated):
        yield


@contextmanager
def _noise_after_optimizer() -> Iterator[None]:
    def wrap(real: Any) -> Any:
        def train(self, job):  # type: ignore[no-untyped-def]
            from ffalora_cli.privacy.mechanism.example_level import noise_stack

            sd, private = job.privacy.noise_sd, job.privacy
            silent = replace(private, noise_sd=np.zeros_like(sd))
            result = real(self, replace(job, privacy=silent))
            shapes = {name: tuple(job.start[name].shape[1:]) for name in job.trainable}
            scale = torch.from_numpy(sd * job.optimizer.lr / private.expected_batch)
            ids = job.clients.tolist()
            for step in range(len(job.batches)):
                noise = noise_stack(shapes, ids, scale, private.secret, job.round, step)
                for name, value in result.trained.items():
                    value += noise[name]
            return result

        return train

    with seams.training(wrap):
        yield


MUTANTS = (
    Mutant(
        "noise × 0.95",
        "noise sd per tensor",
        _noise(lambda stack: {n: 0.95 * v for n, v in stack.items()}),
    ),
    Mutant(
        "head without noise",
        "noise sd per tensor",
        _noise(lambda s: {n: v * (not n.startswith("head.")) for n, v in s.items()}),
    ),
    Mutant("one seed for all tensors", "noise across tensors", _same(tensor="same")),
    Mutant("one seed for all clients", "noise across clients", _same(client=0)),
    Mutant("one seed for all rounds", "noise across rounds", _same(round=0)),
    Mutant("one seed for all steps", "noise across steps", _same(step=0)),
    Mutant(
        "one value of noise for a whole row",
        "noise norms",
        _noise(lambda s: {n: v[..., :1].expand_as(v) for n, v in s.items()}),
    ),
    Mutant(
        "uniform instead of Gaussian noise",
        "noise is Gaussian",
        _noise(lambda s: {n: _uniform(v) for n, v in s.items()}),
    ),
    Mutant("noise in every micro-batch", "noise sd, full batches", _noise_each_micro_batch),
    Mutant(
        "noise after the optimiser", "uploads follow from noised gradients", _noise_after_optimizer
    ),
    Mutant("clip of the batch's mean gradient", BOUND, _clip(_batch_mean)),
    Mutant("clip of each tensor by itself", BOUND, _clip(_per_tensor)),
    Mutant("clip norm in bfloat16", BOUND, _clip(_bf16_norm)),
    Mutant("no clip for one-dimensional tensors", BOUND, _clip(_biases_free)),
    Mutant("a NaN times zero", "non-finite examples count as zero", _clip(_nan_spreads)),
    Mutant(
        "divided by the batch twice",
        "divisor is the expected batch",
        _after(lambda total, expected, realised: total / expected),
    ),
    Mutant(
        "divided by the realised batch",
        "divisor is the expected batch",
        _after(lambda total, expected, realised: total * expected / realised.clamp(min=1.0)),
    ),
    Mutant(
        "empty batches skipped",
        "empty batches are noise-only steps",
        _after(lambda total, expected, realised: total * (realised > 0)),
    ),
)
