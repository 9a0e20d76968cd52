"""An epsilon as text: rounded up everywhere, so that no line promises more than another."""

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
