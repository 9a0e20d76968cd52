"""Computes epsilon of other groups of rows than one whole unit, for the same noise.

Exact by PLD for Poisson batches, closed form where nothing is amplified, else no number: never a
product of an epsilon.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.privacy.accounting.accountants import COARSE
from ffalora_cli.privacy.accounting.composition import composed
from ffalora_cli.privacy.accounting.disk_cache import answered
from ffalora_cli.privacy.accounting.group_loss import one_row, several_units
from ffalora_cli.privacy.accounting.loss_distribution import Curve, fitting
from ffalora_cli.privacy.accounting.sampling import uses


def epsilon_of_units(
    sampling: str, noise_multiplier: float, sample_rate: float, steps: int, delta: float, units: int
) -> float | None:
    """Epsilon of ``units`` units of one client together; None where no bound is known.

    Args:
        sampling: ``poisson``, ``shuffled`` or ``fixed`` (None).
        noise_multiplier: > 0, in units of the clip.
        sample_rate: of units.
        steps: of the client.
        delta: of the whole group.
        units: 2 or more.
    """
    if sampling == "fixed":
        return None
    if sampling == "shuffled" or sample_rate == 1.0:  # at worst all are in one batch
        count = uses(sample_rate, steps) if sampling == "shuffled" else steps
        return Accountant("pld", delta).epsilon([(noise_multiplier / units, 1.0, count)])

    def curves(interval: float) -> list[Curve]:
        return several_units(noise_multiplier, sample_rate, units, interval)

    return _stored(f"{units} units", curves, noise_multiplier, sample_rate, steps, delta)


def epsilon_of_one_row(
    sampling: str, noise_multiplier: float, sample_rate: float, steps: int, delta: float
) -> float | None:
    """Bound for adding or removing one row of a unit of several; None where none is known.

    Holds for clips that are projections, all of a unit's rows in a step and a fixed clip. A unit
    that is drawn at every use moves by at most one clip, as a whole unit does; see ``group_loss``
    for drawn ones.
    """
    if sampling == "fixed":
        return None
    if sampling == "shuffled" or sample_rate == 1.0:
        return Accountant("pld", delta, sampling).epsilon([(noise_multiplier, sample_rate, steps)])

    def curves(interval: float) -> list[Curve]:
        return one_row(noise_multiplier, sample_rate, interval)

    return _stored("one row", curves, noise_multiplier, sample_rate, steps, delta)


def _stored(
    what: str,
    curves: Callable[[float], list[Curve]],
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    delta: float,
) -> float:
    """Composed on the coarse grid (0.1 % above the fine one at most), kept on disk."""
    if steps == 0:
        return 0.0
    question: dict[str, str | float | int | list[int]] = {
        "group": what,
        "noise_multiplier": noise_multiplier,
        "sample_rate": sample_rate,
        "steps": steps,
        "delta": delta,
    }

    def answer() -> float:
        width = fitting([(noise_multiplier, sample_rate, 1)], COARSE)
        return float(composed(curves(width), np.array([steps]), delta, width)[0])

    return answered(question, answer)
