"""Draws accuracy against bytes and epsilon: one point a method and privacy level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ffalora_cli.config.errors import ConfigError, counted
from ffalora_cli.privacy.rounding import epsilon_text, rounded_up
from ffalora_cli.report.figures.places import Place, Places, places
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
    PENS,
    Picture,
    legend_below,
    log,
    panel_figure,
    pen,
    plain_x,
    score_axis,
    score_words,
)
from ffalora_cli.report.names import byte_unit
from ffalora_cli.report.runs.statistics import Sample, summarize
from ffalora_cli.tasks.registry import higher_is_better

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_SIZE = 4.5  # of a marker, in points
_EPSILON = "epsilon"  # what ``Point.told`` calls its level
_CIRCUMSTANCES = ("task", "partition", "federation.num_clients")
"""First words of keys that nobody chooses; only points that agree in them are compared."""
_CAPTION = (
    "filled: no other point of the panel is as good in score, bytes and epsilon and better in one; "
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
    told: Mapping[str, str] = field(default_factory=dict)  # words that tell it, epsilon's too


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
    if not ends:
        raise ConfigError(
            f"--kind pareto: none of {counted(len(runs), 'run')} is finished; wait for one"
        )
    apart = [key for key in ends[0].told if key.startswith(_CIRCUMSTANCES)]
    where = places([point.told for point in ends], apart)
    found = mark_best(ends, higher_is_better(y), apart)
    legend = _legend(where)
    scale, unit = byte_unit(max(point.bytes for point in found))
    below = f"{X_AXES[x]} ({unit})"
    figure, axes = panel_figure(where.titles, legend[1], below, score_words(y))
    placed = list(zip(found, where.of, strict=True))
    for i, (point, place) in enumerate(placed):
        later = [other for other, its in placed[i + 1 :] if its.panel == place.panel]
        size = _SIZE + 3 * _covered(point, later, found)  # what lies below is larger
        _mark(axes[place.panel], point, scale, size, place)
    score_axis(axes[0], y)
    low, high = (edge(point.bytes for point in found) for edge in (min, max))
    if low > 0 and high > 20 * low:
        log(axes[0].xaxis)
    else:
        plain_x(axes[0])
    axes[0].margins(x=0.14, y=0.08)
    axes[0].autoscale_view()
    legend_below(figure, *legend)
    left_out = sum(not run.finished for run in runs)
    notes = [*grouping.notes]
    notes += [f"left out: {left_out} unfinished of {counted(len(runs), 'run')}"] if left_out else []
    words = f"{y} at the end against {X_AXES[x]}, epsilons: {terms or 'no privacy'}; {_CAPTION}"
    return Picture(figure, words, [_row(point, x, y) for point in found], tuple(notes))


def mark_best(
    found: Sequence[Point], higher: bool = True, within: Sequence[str] = ()
) -> list[Point]:
    """The points with ``best`` filled in: score up (or down), bytes and epsilon down.

    Args:
        found: all points.
        higher: whether higher scores are better.
        within: keys of ``Point.told``; only points that agree in them are compared.
    """
    sign = 1.0 if higher else -1.0

    def aims(point: Point) -> tuple[float, float, float]:
        return sign * point.sample.mean, -point.bytes, -point.epsilon

    def beaten(own: Point) -> bool:
        return any(
            aims(o) != aims(own) and all(x >= y for x, y in zip(aims(o), aims(own), strict=True))
            for o in found
            if all(o.told[key] == own.told[key] for key in within)
        )

    return [replace(point, best=not beaten(point)) for point in found]


def _covered(point: Point, later: Sequence[Point], found: Sequence[Point]) -> int:
    """How many markers are drawn over this one: of its bytes, and nearly of its score."""
    means = [other.sample.mean for other in found]
    near = 0.04 * (max(means) - min(means))
    return sum(
        other.bytes == point.bytes and abs(other.sample.mean - point.sample.mean) <= near
        for other in later
    )


def _mark(axis: Axes, point: Point, scale: float, size: float, place: Place) -> None:
    """One marker with its bar, at its own bytes and score."""
    colour = pen(place.colour).colour
    axis.errorbar(
        point.bytes / scale,
        point.sample.mean,
        yerr=point.sample.sd,
        fmt=_shape(place.dash),
        color=colour,
        markerfacecolor=colour if point.best else "white",
        markeredgecolor="white" if point.best else colour,  # seen on a marker of its colour
        markeredgewidth=0.6 if point.best else 1.0,
        markersize=size,
        elinewidth=0.8,
        capthick=0.8,
        capsize=1.5,
    )


def _shape(slot: int) -> str:
    return PENS[slot % len(PENS)].marker


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
        told = {**group.told, _EPSILON: level_words(epsilon)}
        found.append(Point(group.label, float(np.mean(sent)), epsilon, summarize(last), told=told))
    return found


def level_words(epsilon: float) -> str:
    """An epsilon as legends have it."""
    sign = "\N{GREEK SMALL LETTER EPSILON}"
    return f"{sign} = {epsilon_text(epsilon)}" if math.isfinite(epsilon) else "no privacy"


def _legend(where: Places) -> tuple[list[Artist], list[str]]:
    """Colours, then shapes; a picture of one thing says it, too."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Artist] = [
        Patch(facecolor=pen(slot).colour) for slot in range(len(where.colours))
    ]
    handles += [
        Line2D([], [], color="#555555", marker=_shape(slot), linestyle="", markersize=_SIZE)
        for slot, name in enumerate(where.dashes)
        if name
    ]
    return handles, [*where.colours, *filter(None, where.dashes)]


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
