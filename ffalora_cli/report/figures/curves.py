"""Draws curves with their spread over seeds, against rounds, bytes, epsilon or seconds."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ffalora_cli.report.figures.series import X_AXES, Curve, Grouping, curves, epsilon_terms
from ffalora_cli.report.figures.style import (
    Picture,
    byte_unit,
    column_figure,
    legend_below,
    pen,
    share_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = 12  # markers on a line; more would hide it
_HEIGHT = 2.1  # inches of the axes; every line of the legend adds to it


def draw(grouping: Grouping, x: str, y: str) -> Picture:
    """Draw one line a group. To be called under ``style.styled``.

    Args:
        grouping: of ``grouping.group_runs``.
        x: one of ``series.X_AXES``.
        y: a metric of the round records.

    Raises:
        ConfigError: when no run has the two quantities, or epsilons are of different kinds.
    """
    lines = curves(grouping, x, y)
    figure, axis = column_figure(_HEIGHT, [line.label for line in lines])
    scale, under = 1.0, X_AXES[x]
    if x.endswith("bytes"):
        scale, unit = byte_unit(max(float(line.x.max(initial=0)) for line in lines))
        under += f", {unit}"
    elif x == "epsilon":
        terms = epsilon_terms(grouping.runs) or "terms in the run"
        under = textwrap.fill(f"epsilon ({terms})".replace("delta ", "delta\u00a0"), 48)
    for line in lines:
        _line(axis, line, scale, held=x != "round")
    share_axis(axis, y)
    axis.set_xlabel(under)
    if x == "round":
        axis.xaxis.get_major_locator().set_params(integer=True)
    axis.margins(x=0.02)
    if len(lines) > 1 or lines[0].label:
        legend_below(figure, *axis.get_legend_handles_labels())
    notes = [*grouping.notes, *(note for line in lines for note in line.notes)]
    notes += grouping.absent([line.label for line in lines], x)
    return Picture(figure, words(lines, x, y), _rows(lines, x, y), tuple(notes))


def words(lines: Sequence[Curve], x: str, y: str) -> str:
    """What the picture shows, for its caption and for those who cannot see it."""
    counts = sorted({line.runs for line in lines})
    spread = "one run a line"
    if counts[-1] > 1:
        several = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        spread = f"mean of {several} runs a line, band: one sample standard deviation each way"
    held = "" if x == "round" else "; between evaluations the last value is held"
    return f"{y} against {X_AXES[x]}; {spread}{held}"


def _line(axis: Axes, line: Curve, scale: float, held: bool) -> None:
    look = pen(line.slot)
    axis.plot(
        line.x / scale,
        line.mean,
        color=look.colour,
        linestyle=look.dash,
        marker=look.marker,
        markevery=max(1, math.ceil(len(line.x) / _MARKERS)),
        drawstyle="steps-post" if held else "default",
        label=line.label or None,
    )
    if line.runs > 1:
        axis.fill_between(
            line.x / scale,
            line.mean - line.sd,
            line.mean + line.sd,
            step="post" if held else None,
            color=look.colour,
            alpha=0.18,
            linewidth=0,
        )


def _rows(lines: Sequence[Curve], x: str, y: str) -> list[dict[str, Any]]:
    """Every point of the picture, bytes as bytes."""
    return [
        {
            "group": line.label,
            x: float(at),
            y: sample.mean,
            "sd": sample.sd,
            "low_95": sample.interval[0] if sample.interval else None,
            "high_95": sample.interval[1] if sample.interval else None,
            "runs": sample.count,
        }
        for line in lines
        for at, sample in zip(line.x, line.samples, strict=True)
    ]
