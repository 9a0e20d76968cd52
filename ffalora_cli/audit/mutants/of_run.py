"""Mutants of a run: batches, ledger, uploads."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ffalora_cli import keys
from ffalora_cli.audit.mutants import seams
from ffalora_cli.audit.mutants.seams import Mutant

Broken = Callable[[], AbstractContextManager[None]]
Batch = Callable[[keys.Key, int, int, int, np.ndarray, int], np.ndarray]
"""(key, client, round, step, rows, expected size) -> a batch."""


def _batches(draw: Batch) -> Broken:
    """Another sampler; an expected size of zero stays an empty batch."""

    def wrap(real: Any) -> Any:
        def poisson_batch(key, client, round, step, rows, sample_rate):  # type: ignore[no-untyped-def]
            size = int(len(rows) * sample_rate + 0.5)
            return draw(key, client, round, step, rows, size) if size else rows[:0]

        return poisson_batch

    return lambda: seams.sampler(wrap)


def _shuffled(
    key: keys.Key, client: int, round: int, step: int, rows: np.ndarray, size: int
) -> np.ndarray:
    from ffalora_cli.privacy.mechanism.batches import epoch_batch

    return epoch_batch(key, client, 1000 * (round - 1) + step, rows, size)


def _fixed_size(
    key: keys.Key, client: int, round: int, step: int, rows: np.ndarray, size: int
) -> np.ndarray:
    generator = keys.numpy_generator(keys.derive(key, "fixed", client, round, step))
    return np.sort(generator.choice(rows, size, replace=False))


def _same(**fixed: int) -> Broken:
    """Some coordinates of the sampler's key left out."""

    def wrap(real: Any) -> Any:
        def poisson_batch(key, client, round, step, rows, sample_rate):  # type: ignore[no-untyped-def]
            at = {"client": client, "round": round, "step": step} | fixed
            return real(key, at["client"], at["round"], at["step"], rows, sample_rate)

        return poisson_batch

    return lambda: seams.sampler(wrap)


def _pooled_rate() -> AbstractContextManager[None]:
    """The rate accounted for is batch / rows of all clients together."""

    def wrap(real: Any) -> Any:
        def make_plan(*arguments: Any, **named: Any) -> Any:
            plan = real(*arguments, **named)
            return replace(plan, accounted_rate=plan.expected_batch / plan.examples.sum())

        return make_plan

    return seams.planning(wrap)


def _charge(change: Callable[[Any, Any, Any, int], None]) -> Broken:
    """``change(real, ledger, clients and round, steps)`` instead of a charge."""

    def wrap(real: Any) -> Any:
        def charge(self, round, clients, steps):  # type: ignore[no-untyped-def]
            change(lambda count: real(self, round, clients, count), self, clients, steps)

        return charge

    return lambda: seams.ledger(wrap)


def _fresh_accountant(real: Any, ledger: Any, clients: Any, steps: int) -> None:
    ledger.steps_taken[clients] = 0
    real(steps)


def _one_short(real: Any, ledger: Any, clients: Any, steps: int) -> None:
    real(steps - 1)


def _only_first_round(real: Any, ledger: Any, clients: Any, steps: int) -> None:
    if not ledger.steps_taken.any():
        real(steps)


def _uncovered_upload() -> AbstractContextManager[None]:
    """One tensor more than the plan covers, as with an unprotected head."""

    def wrap(real: Any) -> Any:
        def receive(*arrived: Any) -> Any:
            receipt = real(*arrived)
            norm = torch.from_numpy(receipt.norms).float()[:, None]
            return replace(receipt, uploads=receipt.uploads | {"update_norm": norm})

        return receive

    return seams.arrival(wrap)


def _partly_raw() -> AbstractContextManager[None]:
    """The upload is shifted by something that no noise was added to."""

    def wrap(real: Any) -> Any:
        def upload(setting, number, ids, held, result):  # type: ignore[no-untyped-def]
            loss = torch.from_numpy(result.loss_sum).float()
            shape = {n: (-1, *[1] * (v.dim() - 1)) for n, v in result.trained.items()}
            raw = {n: v + 1e-3 * loss.view(shape[n]) for n, v in result.trained.items()}
            return real(setting, number, ids, held, replace(result, trained=raw))

        return upload

    return seams.upload(wrap)


MUTANTS = (
    Mutant("shuffled batches", "batches are independent", _batches(_shuffled)),
    Mutant("batches of a fixed size", "batch sizes are binomial", _batches(_fixed_size)),
    Mutant("rate from the pooled rows", "sampling rate", _pooled_rate),
    Mutant("the same batches for all clients", "clients draw apart", _same(client=0)),
    Mutant("the same batches every round", "batches are independent", _same(round=0)),
    Mutant("a new accountant every round", "epsilon counts all rounds", _charge(_fresh_accountant)),
    Mutant("ledger one step short", "every step is charged", _charge(_one_short)),
    Mutant("only the first round charged", "every step is charged", _charge(_only_first_round)),
    Mutant("an uncovered tensor in the upload", "uploaded tensors are covered", _uncovered_upload),
    Mutant(
        "raw statistics added to the upload", "uploads follow from noised gradients", _partly_raw
    ),
)
