"""Mutants of a run: batches, ledger, uploads; each takes what its seam does."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ffalora_cli import keys
from ffalora_cli.audit.mutants.seams import ARRIVAL, LEDGER, PLANNING, SAMPLER, UPLOAD, Mutant
from ffalora_cli.privacy.mechanism.batches import epoch_batch


def _expected_size(rows: np.ndarray, sample_rate: float) -> int:
    return int(len(rows) * sample_rate + 0.5)


def _shuffled(real, key, client, round, step, rows, sample_rate):
    size = _expected_size(rows, sample_rate)
    return epoch_batch(key, client, 1000 * (round - 1) + step, rows, size) if size else rows[:0]


def _fixed_size(real, key, client, round, step, rows, sample_rate):
    generator = keys.numpy_generator(keys.derive(key, "fixed", client, round, step))
    return np.sort(generator.choice(rows, _expected_size(rows, sample_rate), replace=False))


def _for_all_clients(real, key, client, round, step, *drawn):
    return real(key, 0, round, step, *drawn)


def _every_round(real, key, client, round, step, *drawn):
    return real(key, client, 0, step, *drawn)


def _pooled_rate(real, *arguments, **named):
    """The rate accounted for is batch / rows of all clients together."""
    plan = real(*arguments, **named)
    return replace(plan, accounted_rate=plan.expected_batch / plan.examples.sum())


def _fresh_accountant(real, ledger, round, clients, steps):
    ledger.steps_taken[clients] = 0
    real(ledger, round, clients, steps)


def _one_short(real, ledger, round, clients, steps):
    real(ledger, round, clients, steps - 1)


def _only_first_round(real, ledger, *charge):
    if not ledger.steps_taken.any():
        real(ledger, *charge)


def _uncovered_upload(real, *arrived):
    """One tensor more than the plan covers, as with an unprotected head."""
    receipt = real(*arrived)
    norm = torch.from_numpy(receipt.norms).float()[:, None]
    return replace(receipt, uploads=receipt.uploads | {"update_norm": norm})


def _partly_raw(real, setting, number, ids, held, result):
    """The upload is shifted by something that no noise was added to."""
    loss = torch.from_numpy(result.loss_sum).float()
    shape = {n: (-1, *[1] * (v.dim() - 1)) for n, v in result.trained.items()}
    raw = {n: v + 1e-3 * loss.view(shape[n]) for n, v in result.trained.items()}
    return real(setting, number, ids, held, replace(result, trained=raw))


MUTANTS = (
    Mutant("shuffled batches", "batches are independent", {SAMPLER: _shuffled}),
    Mutant("batches of a fixed size", "batch sizes are binomial", {SAMPLER: _fixed_size}),
    Mutant("rate from the pooled rows", "sampling rate", {PLANNING: _pooled_rate}),
    Mutant("the same batches for all clients", "clients draw apart", {SAMPLER: _for_all_clients}),
    Mutant("the same batches every round", "batches are independent", {SAMPLER: _every_round}),
    Mutant(
        "a new accountant every round", "epsilon counts all rounds", {LEDGER: _fresh_accountant}
    ),
    Mutant("ledger one step short", "every step is charged", {LEDGER: _one_short}),
    Mutant("only the first round charged", "every step is charged", {LEDGER: _only_first_round}),
    Mutant(
        "an uncovered tensor in the upload",
        "uploaded tensors are covered",
        {ARRIVAL: _uncovered_upload},
    ),
    Mutant(
        "raw statistics added to the upload",
        "uploads follow from noised gradients",
        {UPLOAD: _partly_raw},
    ),
)
