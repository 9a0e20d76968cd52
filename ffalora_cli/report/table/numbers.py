"""Writes a metric's numbers: percent, bytes in one unit, seconds, epsilons rounded up."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ffalora_cli.metric_keys import described, short_name
from ffalora_cli.privacy.rounding import epsilon_text
from ffalora_cli.report.names import byte_unit
from ffalora_cli.report.runs.moments import COSTS
from ffalora_cli.report.runs.statistics import Sample
from ffalora_cli.report.table.formats import ABSENT, true_minus
from ffalora_cli.tasks.registry import is_percent


@dataclass(frozen=True)
class Scale:
    """How the numbers of one metric are written in one table."""

    title: str
    unit: float = 1.0  # a written 1 in the metric's own unit
    decimals: int = 4
    epsilon: bool = False  # rounded up

    def plain(self, value: float | None, sign: str = "") -> str:
        """One number, large ones without decimals; a dash for none."""
        if value is None or math.isnan(value):
            return ABSENT
        if self.epsilon and not sign:
            return epsilon_text(value, self.decimals)
        shown = value / self.unit
        text = f"{shown:{sign}.{self.decimals}f}" if abs(shown) < 1e3 else f"{shown:{sign},.0f}"
        return true_minus(text)

    def spread(self, sample: Sample, interval: bool, sign: str = "") -> str:
        """Mean and, of several runs, the half-width of its interval or the standard deviation."""
        around = sample.half_width if interval else sample.sd
        text = self.plain(sample.mean, sign)
        return text if around is None else f"{text} ± {self.plain(around)}"


def scale_of(metric: str, largest: float = 0.0) -> Scale:
    """How a metric is written where ``largest`` is its largest number."""
    name, meaning = short_name(metric), described(metric)
    unit = COSTS.get(metric) or (meaning.unit if meaning else "")
    if is_percent(metric):
        return Scale(f"{name} %", 0.01, 2)
    if unit == "bytes":
        size, letters = byte_unit(largest)
        words = {"uplink_bytes": "up", "total_bytes": "up and down"}.get(metric, name)
        return Scale(f"{words} {letters}", size, 2)
    if unit in ("rounds", "seconds"):
        return Scale(unit if metric in COSTS else name, 1.0, 1)
    return Scale("ε spent", 1.0, 2, epsilon=True) if unit == "epsilon" else Scale(name)
