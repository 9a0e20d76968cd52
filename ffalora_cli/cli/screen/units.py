"""Formats numbers: bytes, seconds, scores, counts."""

from __future__ import annotations

import math

from ffalora_cli.tasks.registry import is_percent


def human_bytes(count: float | None) -> str:
    """Bytes with a decimal unit (1 kB = 1000 B), as network equipment counts them."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def human_seconds(seconds: float | None) -> str:
    """``m:ss`` below an hour, else ``h:mm:ss``."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def score(name: str, value: float | None) -> str:
    """A metric in the unit that its task declares: shares in percent."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{100 * value:.1f} %" if is_percent(name) else f"{value:.3f}"


def number(value: float | None, digits: int = 2) -> str:
    """A fixed number of decimals, or a dash for nothing."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.{digits}f}"


def count(value: int) -> str:
    """A whole number with thousands separators."""
    return f"{value:,}"
