"""Mutants of units of several rows: what is drawn, what is clipped, what is divided by."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np

from ffalora_cli import keys
from ffalora_cli.audit.mechanism.dealing import TWINS
from ffalora_cli.audit.mechanism.sampler import DIVISOR, UNIT_ROWS
from ffalora_cli.audit.mechanism.surrogate import SEVERAL
from ffalora_cli.audit.mechanism.unit_clip import UNIT_BOUND
from ffalora_cli.audit.mutants import seams
from ffalora_cli.audit.mutants.seams import Mutant
from ffalora_cli.engine.job import StepBatches

PIECE = 16  # rows of a unit that the torn unit is clipped by


def _rows_alone() -> AbstractContextManager[None]:
    """Every row is clipped, their sum is not: a text of five rows counts five times."""

    def wrap(real: Any) -> Any:
        return lambda privacy, sums, total, counts: real(None, sums, total, counts)

    return seams.unit_end(wrap)


def _torn_units() -> AbstractContextManager[None]:
    """A unit is closed wherever a micro-batch happens to end."""

    def wrap(real: Any) -> Any:
        def whole_units(pairs, most):  # type: ignore[no-untyped-def]
            for part in real(pairs, most):
                rank = np.zeros(len(part.units), np.int64)
                for unit in np.unique(part.units):
                    here = part.units == unit
                    rank[here] = np.arange(here.sum())
                for piece in range(int(rank.max()) // PIECE + 1):
                    at = rank // PIECE == piece
                    yield StepBatches(part.slots[at], part.rows[at], part.units[at])

        return whole_units

    return seams.unit_parts(wrap)


def _rows_drawn() -> AbstractContextManager[None]:
    """Rows are drawn, each by itself, at the units' rate."""

    def wrap(real: Any) -> Any:
        def rows_of_units(key, client, round, step, drawn, rows, units, most=None):  # type: ignore[no-untyped-def]
            rate = len(drawn) / (int(units.max()) + 1)
            generator = keys.numpy_generator(keys.derive(key, "rows", client, round, step))
            chosen = generator.random(len(rows)) < rate
            return rows[chosen], units[chosen]

        return rows_of_units

    return seams.unit_rows(wrap)


def _rows_divided_by() -> AbstractContextManager[None]:
    """The divisor is the expected number of rows."""

    def wrap(real: Any) -> Any:
        def privacy(self, ids, state):  # type: ignore[no-untyped-def]
            told = real(self, ids, state)
            return replace(told, expected_batch=told.expected_batch * (1 + (SEVERAL - 1) / 10))

        return privacy

    return seams.example_privacy(wrap)


def _dealt_row_by_row() -> AbstractContextManager[None]:
    """Rows are dealt, not units: a text that occurs twice may be on two clients."""

    def wrap(real: Any) -> Any:
        def collect(owner, num_clients):  # type: ignore[no-untyped-def]
            return real(np.random.default_rng(0).permutation(owner), num_clients)

        return collect

    return seams.dealt_rows(wrap)


MUTANTS = (
    Mutant("units clipped by row only", UNIT_BOUND, _rows_alone),
    Mutant("a unit cut at a micro-batch border", UNIT_BOUND, _torn_units),
    Mutant("rows drawn instead of units", UNIT_ROWS, _rows_drawn),
    Mutant("divided by the expected rows", DIVISOR, _rows_divided_by),
    Mutant("a twin on two clients", TWINS, _dealt_row_by_row),
)
