"""Mutants of units of several rows: what is drawn, what is clipped, what is divided by."""

# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ffalora_cli import keys
from ffalora_cli.audit.mechanism.clip import UNIT_BOUND
from ffalora_cli.audit.mechanism.sampler import DIVISOR, TWINS, UNIT_ROWS
from ffalora_cli.audit.mechanism.surrogate import SEVERAL
from ffalora_cli.audit.mutants import seams
from ffalora_cli.audit.mutants.seams import Mutant
from ffalora_cli.engine.job import StepBatches

PIECE = 16  # rows of a unit that the torn unit is clipped by


def _rows_alone(real, privacy, sums, total, counts):
    """Every row is clipped, their sum is not: a text of five rows counts five times."""
    return real(None, sums, total, counts)


def _torn_units(real, pairs, most):
    """A unit is closed wherever a micro-batch happens to end."""
    for part in real(pairs, most):
        rank = np.zeros(len(part.units), np.int64)
        for unit in np.unique(part.units):
            here = part.units == unit
            rank[here] = np.arange(here.sum())
        for piece in range(int(rank.max()) // PIECE + 1):
            at = rank // PIECE == piece
            yield StepBatches(part.slots[at], part.rows[at], part.units[at])


def _rows_drawn(real, key, client, round, step, drawn, rows, units, most=None):
    """Rows are drawn, each by itself, at the units' rate."""
    rate = len(drawn) / (int(units.max()) + 1)
    generator = keys.numpy_generator(keys.derive(key, "rows", client, round, step))
    chosen = generator.random(len(rows)) < rate
    return rows[chosen], units[chosen]


def _rows_divided_by(real, release, ids, state):
    """The divisor is the expected number of rows."""
    told = real(release, ids, state)
    return replace(told, expected_batch=told.expected_batch * (1 + (SEVERAL - 1) / 10))


def _dealt_row_by_row(real, owner, num_clients):
    """Rows are dealt, not units: a text that occurs twice may be on two clients."""
    return real(np.random.default_rng(0).permutation(owner), num_clients)


MUTANTS = (
    Mutant("units clipped by row only", UNIT_BOUND, {seams.UNIT_END: _rows_alone}),
    Mutant("a unit cut at a micro-batch border", UNIT_BOUND, {seams.UNIT_PARTS: _torn_units}),
    Mutant("rows drawn instead of units", UNIT_ROWS, {seams.UNIT_ROWS: _rows_drawn}),
    Mutant("divided by the expected rows", DIVISOR, {seams.EXAMPLE_PRIVACY: _rows_divided_by}),
    Mutant("a twin on two clients", TWINS, {seams.DEALT_ROWS: _dealt_row_by_row}),
)
