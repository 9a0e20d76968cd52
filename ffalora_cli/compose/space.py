"""Axes and intervals of a search, as they are typed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Interval:
    """Numbers between two ends, both included."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


Axis = Interval | tuple[str, ...]  # a tuple: one of these values
