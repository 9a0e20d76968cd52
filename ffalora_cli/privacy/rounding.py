"""Epsilon and delta as text; an epsilon is rounded up, so that no line promises too much."""

from __future__ import annotations

import math


def epsilon_text(value: float | str | None) -> str:
    """Two decimals, rounded up; ``inf``, as records spell it; a dash for nothing."""
    if value is None or value == "inf":
        return value or "-"
    number = float(value)
    if not math.isfinite(number):
        return "-" if math.isnan(number) else "inf"
    return f"{math.ceil(number * 100 - 1e-9) / 100:.2f}"


def delta_text(value: float) -> str:
    """A delta as people write it: ``1e-5``."""
    return f"{value:g}".replace("e-0", "e-")
