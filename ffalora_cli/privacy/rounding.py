"""Formats epsilon and delta; epsilon is rounded up, so that no line promises too much."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


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


def largest_client(said: Mapping[str, Any]) -> tuple[str, str, str]:
    """Epsilon of the largest client alone, by each accountant and under other assumptions."""
    largest = said["largest"]
    return (
        ", ".join(f"{name.upper()} {epsilon_text(e)}" for name, e in largest["epsilon"].items()),
        f"replace one {epsilon_text(largest['replace_one'])}",
        f"without amplification {epsilon_text(largest['no_amplification'])}",
    )


def bound_of_delta(said: Mapping[str, Any], of: str) -> str:
    """Whether delta is below 1/n; empty where a statement of an earlier schema does not say."""
    if "delta_below_one_over_n" not in said:
        return ""
    return f"; {'below' if said['delta_below_one_over_n'] else 'NOT below'} 1/n of {of}"
