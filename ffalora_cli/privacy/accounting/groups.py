"""Computes epsilon of other groups of rows than one whole unit, for the same noise.

Exact by PLD for Poisson batches, closed form where nothing is amplified, else no number: never a
product of an epsilon.
"""

from __future__ import annotations

import numpy as np

from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.privacy.accounting.accountants import COARSE
from ffalora_cli.privacy.accounting.composition import composed
from ffalora_cli.privacy.accounting.disk_cache import Question, answered
from ffalora_cli.privacy.accounting.group_loss import one_row, several_units
from ffalora_cli.privacy.accounting.loss_distribution import fitting


def epsilon_of_group(
    sampling: str,
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    delta: float,
    units: int | None,
) -> float | None:
    """Epsilon of units of one client together, or of one row of a unit; None where none is known.

    The bound for one row holds for clips that are projections, all of a unit's rows in a step and a
    fixed clip. A unit that is drawn at every use moves by at most one clip, as a whole unit does;
    see ``group_loss`` for drawn ones.

    Args:
        sampling: ``poisson``, ``shuffled`` or ``fixed`` (None).
        noise_multiplier: > 0, in units of the clip.
        sample_rate: of units.
        steps: of the client.
        delta: of the whole group.
        units: 2 or more; None: one row of a unit of several, more or less.
    """
    if sampling == "fixed":
        return None
    if sampling == "shuffled" or sample_rate == 1.0:  # at worst all are in one batch
        step = (noise_multiplier / (units or 1), sample_rate, steps)
        return Accountant("pld", delta, sampling).epsilon([step])
    if steps == 0:
        return 0.0
    question: Question = {
        "group": f"{units} units" if units else "one row",
        "noise_multiplier": noise_multiplier,
        "sample_rate": sample_rate,
        "steps": steps,
        "delta": delta,
    }

    def answer() -> float:  # on the coarse grid: 0.1 % above the fine one at most
        width = fitting([(noise_multiplier, sample_rate, 1)], COARSE)
        if units is None:
            curves = one_row(noise_multiplier, sample_rate, width)
        else:
            curves = several_units(noise_multiplier, sample_rate, units, width)
        return float(composed(curves, np.array([steps]), delta, width)[0])

    return answered(question, answer)
