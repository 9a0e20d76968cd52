"""Draws accuracy against bytes and epsilon: one point a method and privacy level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.privacy.rounding import epsilon_text, rounded_up
from ffalora_cli.report.figures.series import (
    EPSILON,
    X_AXES,
    Group,
    Grouping,
    check_metric,
    epsilon_terms,
    points,
)
from ffalora_cli.report.figures.style import (
    Picture,
    byte_unit,
    column_figure,
    legend_below,
    pen,
    share_axis,
)
from ffalora_cli.report.runs.statistics import Sample, summarize
from ffalora_cli.tasks.registry import higher_is_better

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_HEIGHT = 2.1
_SIZE = 5.0  # of a marker, in points
_CAPTION = (
    "filled: no other point is as good in score, bytes and epsilon and better in one; "
    "bars: one sample standard deviation each way"
)


@dataclass(frozen=True)
class Point:
    """The end of the finished runs of a group at one epsilon."""

    label: str
    bytes: float
    epsilon: float  # infinite without privacy
    sample: Sample  # of the runs' last values
    best: bool = False  # no other point is as good in all three and better in one


def draw(grouping: Grouping, x: str, y: str) -> Picture:
    """Draw one point a group and epsilon. To be called under ``style.styled``.

    Args:
        grouping: of ``grouping.group_runs``; only finished runs are taken.
        x: ``uplink_bytes`` or ``total_bytes``.
        y: a metric of the round records.

    Raises:
        ConfigError: another axis, no finished run, or epsilons of different kinds.
    """
    if not x.endswith("bytes"):
        raise ConfigError(f"--x {x}: the Pareto picture has bytes below; uplink_bytes, total_bytes")
    runs = grouping.runs
    check_metric(runs, y)
    terms = epsilon_terms(runs)
    ends = [point for group in grouping.groups for point in _points(group, x, y)]
    found = mark_best(ends, higher_is_better(y))
    if not found:
        raise ConfigError(f"--kind pareto: none of {len(runs)} runs is finished; wait for one")
    labels = list(dict.fromkeys(point.label for point in found))
    levels = sorted({point.epsilon for point in found})
    handles, named = _legend(labels, levels)
    figure, axis = column_figure(_HEIGHT, named)
    scale, unit = byte_unit(max(point.bytes for point in found))
    for i, point in enumerate(found):
        size = _SIZE + 3 * _covered(point, found[i + 1 :], found)  # what lies below is larger
        _mark(axis, point, scale, size, levels.index(point.epsilon), labels.index(point.label))
    _axes(axis, found, x, y, unit)
    legend_below(figure, handles, named)
    left_out = sum(not run.finished for run in runs)
    notes = [*grouping.notes]
    notes += [f"left out: {left_out} unfinished of {len(runs)} runs"] if left_out else []
    words = (
        f"{y} at the end against {X_AXES[x]}, one colour an epsilon ({terms or 'not private'}); "
        f"{_CAPTION}"
    )
    return Picture(figure, words, [_row(point, x, y) for point in found], tuple(notes))


def mark_best(found: Sequence[Point], higher: bool = True) -> list[Point]:
    """The points with ``best`` filled in: score up (or down), bytes and epsilon down."""
    sign = 1.0 if higher else -1.0
    aims = [(sign * point.sample.mean, -point.bytes, -point.epsilon) for point in found]
    beaten = [
        any(o != own and all(x >= y for x, y in zip(o, own, strict=True)) for o in aims)
        for own in aims
    ]
    return [replace(point, best=not lost) for point, lost in zip(found, beaten, strict=True)]


def _axes(axis: Axes, found: Sequence[Point], x: str, y: str, unit: str) -> None:
    """Units, and a scale that shows bytes of different sizes."""
    share_axis(axis, y)
    axis.set_xlabel(f"{X_AXES[x]}, {unit}")
    low, high = (edge(point.bytes for point in found) for edge in (min, max))
    if low > 0 and high > 20 * low:
        axis.set_xscale("log")
    axis.margins(x=0.14, y=0.08)
    axis.autoscale_view()


def _covered(point: Point, later: Sequence[Point], found: Sequence[Point]) -> int:
    """How many markers are drawn over this one: of its bytes, and nearly of its score."""
    means = [other.sample.mean for other in found]
    near = 0.04 * (max(means) - min(means))
    return sum(
        other.bytes == point.bytes and abs(other.sample.mean - point.sample.mean) <= near
        for other in later
    )


def _mark(axis: Axes, point: Point, scale: float, size: float, level: int, group: int) -> None:
    """One marker with its bar; the ends of a later group's bars are wider."""
    colour = pen(level).colour
    axis.errorbar(
        point.bytes / scale,
        point.sample.mean,
        yerr=point.sample.sd,
        fmt=pen(group).marker,
        color=colour,
        markerfacecolor=colour if point.best else "white",
        markeredgecolor="white" if point.best else colour,  # seen on a marker of its colour
        markeredgewidth=0.6 if point.best else 1.0,
        markersize=size,
        elinewidth=0.8,
        capthick=0.8,
        capsize=2 + group,
    )


def _points(group: Group, x: str, y: str) -> list[Point]:
    """One point for each epsilon in the group, of two decimals."""
    ends: dict[float, list[tuple[float, float]]] = {}
    for run in group.runs:
        bytes_, scores = points(run, x, y)
        if not run.finished or not len(scores):
            continue
        spent = run.series(EPSILON)[1] if run.config["privacy"]["unit"] != "none" else []
        epsilon = rounded_up(spent[-1]) if spent else math.inf
        ends.setdefault(epsilon, []).append((float(bytes_[-1]), float(scores[-1])))
    found = []
    for epsilon, pairs in ends.items():
        sent, last = zip(*pairs, strict=True)
        found.append(Point(group.label, float(np.mean(sent)), epsilon, summarize(last)))
    return found


def _legend(labels: Sequence[str], levels: Sequence[float]) -> tuple[list[Artist], list[str]]:
    """Markers of the groups, then colours of the epsilons."""
    from matplotlib.lines import Line2D

    ink = "#777777"
    named = [label or "runs" for label in labels]
    handles: list[Artist] = [
        Line2D([], [], color=ink, marker=pen(i).marker, linestyle="", markersize=_SIZE)
        for i in range(len(labels))
    ]
    if len(levels) > 1 or math.isfinite(levels[0]):
        handles += [Line2D([], [], color=pen(i).colour, linewidth=3) for i in range(len(levels))]
        named += [
            f"epsilon {epsilon_text(level)}" if math.isfinite(level) else "no privacy"
            for level in levels
        ]
    return handles, named


def _row(point: Point, x: str, y: str) -> dict[str, Any]:
    return {
        "group": point.label,
        x: point.bytes,
        "epsilon": None if math.isinf(point.epsilon) else point.epsilon,
        y: point.sample.mean,
        "sd": point.sample.sd,
        "runs": point.sample.count,
        "best": int(point.best),
    }
