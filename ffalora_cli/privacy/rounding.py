"""Formats epsilon and delta; epsilon is rounded up, so that no line promises too much."""

from __future__ import annotations

import math


def rounded_up(value: float, decimals: int = 2) -> float:
    """The smallest number with so many decimals that is not below an epsilon."""
    scale = 10**decimals
    return math.ceil(value * scale - 1e-9) / scale if math.isfinite(value) else value


def epsilon_text(value: float | str | None, decimals: int = 2) -> str:
    """With two decimals, rounded up; ``inf``, as records spell it; a dash for nothing."""
    if value is None or value == "inf":
        return value or "-"
    number = float(value)
    if not math.isfinite(number):
        return "-" if math.isnan(number) else "inf"
    return f"{rounded_up(number, decimals):.{decimals}f}"


def delta_text(value: float) -> str:
    """A delta as people write it: ``1e-5``."""
    return f"{value:g}".replace("e-0", "e-")
