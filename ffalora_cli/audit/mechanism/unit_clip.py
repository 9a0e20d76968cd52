"""Checks that no unit of several rows, nor one row of it, moves the sum by more than the clip.

Crafted gradients of whole units go through the run's own clip and sum, with the noise set to zero;
units are larger than a micro-batch, so that one cut at its border would show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ffalora_cli.audit.mechanism.clip import SLACK, direction, released
from ffalora_cli.audit.mechanism.surrogate import Subject
from ffalora_cli.audit.outcome import Check
from ffalora_cli.engine.job import StepBatches, stack_step
from ffalora_cli.types import TensorSpec

UNIT_BOUND = "one unit moves at most the clip"
ROW_BOUND = "one row of a unit moves at most the clip"
SIZES = (1, 2, 5, 40)
NORMS = (0.03, 0.4, 1.0, 1e6)  # of a row's gradient, in units of the clip
OTHERS = 3  # rows of a unit of two and of a unit of one, which stay


@dataclass(frozen=True)
class Unit:
    """Rows of one unit beside two others, in units of the clip."""

    what: str
    rows: Tensor  # [rows, P]


def unit_checks(subject: Subject) -> list[Check]:
    """Whole units added or removed, and single rows of one; none where every row is its own."""
    if subject.clients.units is None:
        return []
    room = len(subject.examples.lengths) - OTHERS
    made = crafted_units(subject.simulation().trainable(1))
    units = [unit for unit in made if len(unit.rows) <= room]
    checks = [_bounded(subject, UNIT_BOUND, units, [0] * len(units))]
    if subject.plan.bounds_one_row:
        several = [unit for unit in units if len(unit.rows) > 1]
        checks.append(_bounded(subject, ROW_BOUND, several, [len(u.rows) - 1 for u in several]))
    return checks


def crafted_units(specs: Sequence[TensorSpec]) -> list[Unit]:
    """Rows that all say the same, rows that cancel, rows in all directions."""
    generator = torch.Generator().manual_seed(3)
    names = [spec.name for spec in specs]
    same = direction(specs, names, generator)
    units = []
    for size in SIZES:
        signs = torch.ones(size, 1)
        signs[1::2] = -1.0
        apart = torch.stack([direction(specs, names, generator) for _ in range(size)])
        for norm in NORMS:
            what = f"{size} rows of {norm:g} clips"
            units.append(Unit(f"{what}, alike", norm * same.expand(size, -1)))
            units.append(Unit(f"{what}, cancelling", norm * signs * same))
            units.append(Unit(f"{what}, unlike", norm * apart))
    return units


def _bounded(subject: Subject, name: str, units: Sequence[Unit], kept: Sequence[int]) -> Check:
    """What the sum moves by when of each unit ``kept`` rows are left, in units of the clip."""
    moved = _moved(subject, units, kept)  # [units, clients]
    allowed = 1.0 + SLACK * (max(SIZES) + OTHERS)
    worst = int(moved.max(1).argmax())
    found = float(moved[worst].max())
    return Check(
        name=name,
        statistic=found,
        limit=allowed,
        p_value=None,
        passed=bool(found <= allowed),  # a NaN fails
        text=f"{found:.7f} clips at most ({units[worst].what}; {len(units)} cases)",
    )


def _moved(subject: Subject, units: Sequence[Unit], kept: Sequence[int]) -> np.ndarray:
    """Norms ``[units, clients]`` of the change, as many units in one round as there are rows."""
    room, clients = len(subject.examples.lengths), subject.plan.num_clients
    found: list[Tensor] = []
    table: list[Tensor] = []
    steps: list[StepBatches] = []

    def play() -> None:
        gradients = torch.cat(table) * subject.plan.max_grad_norm
        sums = released(subject, steps, lambda slots, rows: gradients[torch.from_numpy(rows)])
        found.append((sums[1::2] - sums[0::2]).norm(dim=-1))
        table.clear()
        steps.clear()

    used = 0
    for unit, left in zip(units, kept, strict=True):
        size = OTHERS + len(unit.rows)
        if used + size > room:
            play()
            used = 0
        table += [0.7 * unit.rows[:1].expand(OTHERS, -1), unit.rows]
        for rows in (left, len(unit.rows)):
            batch = used + np.arange(OTHERS + rows)
            of = np.concatenate([[0, 0, 1], np.full(rows, 2)])  # two units beside the one
            steps.append(stack_step([batch] * clients, [of] * clients))
        used += size
    play()
    return torch.cat(found).numpy()
