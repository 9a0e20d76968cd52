"""Draws curves with their spread over seeds, against rounds, bytes, epsilon or seconds."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ffalora_cli.report.figures.places import Place, arranged
from ffalora_cli.report.figures.series import X_AXES, Curve, Grouping, curves, epsilon_terms
from ffalora_cli.report.figures.style import (
    Picture,
    legend_below,
    panel_figure,
    plain_x,
    score_axis,
    score_words,
)
from ffalora_cli.report.names import byte_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = 8  # markers on a line; more would hide it
_BANDS = 2  # lines of a panel that have bands: more would pile up into grey, and have whiskers


def draw(grouping: Grouping, x: str, y: str) -> Picture:
    """Draw one line a group, from five on in several panels. To be called under ``style.styled``.

    Args:
        grouping: of ``grouping.group_runs``.
        x: one of ``series.X_AXES``.
        y: a metric of the round records.

    Raises:
        ConfigError: when no run has the two quantities, or epsilons are of different kinds.
    """
    lines = curves(grouping, x, y)
    found, own = arranged(grouping)
    panels = sorted({own[line.label].panel for line in lines})
    titles = [found.titles[panel] for panel in panels]
    legend = found.legend()
    scale, under = _below(grouping, lines, x)
    figure, axes = panel_figure(titles, legend[1], under, score_words(y))
    for panel, axis in zip(panels, axes, strict=True):
        inside = [line for line in lines if own[line.label].panel == panel]
        if found.titles == found.colours and len(panels) == len(lines) > 1:
            _context(axis, lines, scale, x)
        for number, line in enumerate(inside):
            draw_line(axis, line, own[line.label], scale, x, (number, len(inside)))
    score_axis(axes[0], y)
    plain_x(axes[0], whole=x == "round")
    axes[0].margins(x=0.02)
    if legend[0]:
        legend_below(figure, *legend)
    notes = [*grouping.notes, *(note for line in lines for note in line.notes)]
    notes += grouping.absent([line.label for line in lines], x)
    return Picture(figure, words(lines, x, y, titles), _rows(lines, x, y), tuple(notes))


def words(lines: Sequence[Curve], x: str, y: str, titles: Sequence[str]) -> str:
    """What the picture shows, for its caption and for those who cannot see it."""
    counts = sorted({line.runs for line in lines})
    spread = "one run a line"
    if counts[-1] > 1:
        several = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        spread = f"mean of {several} runs a line, band or whisker: one sample standard deviation"
        spread += " each way"
    held = "" if x == "round" else "; between evaluations the last value is held"
    panels = f"; a panel each for {'; '.join(titles)}" if len(titles) > 1 else ""
    return f"{score_words(y)} against {X_AXES[x]}; {spread}{held}{panels}"


def _below(grouping: Grouping, lines: Sequence[Curve], x: str) -> tuple[float, str]:
    """What values along x are divided by, and the words under the axis."""
    if x.endswith("bytes"):
        scale, unit = byte_unit(max(float(line.x.max(initial=0)) for line in lines))
        return scale, f"{X_AXES[x]} ({unit})"
    if x == "epsilon":
        terms = epsilon_terms(grouping.runs) or "terms in the run"
        return 1.0, textwrap.fill(f"{X_AXES[x]} ({terms})".replace("delta ", "delta\u00a0"), 48)
    return 1.0, X_AXES[x]


def draw_line(
    axis: Axes, line: Curve, place: Place, scale: float, x: str, among: tuple[int, int]
) -> None:
    """A mean with its markers and spread; ``among``: its number in its panel, of how many."""
    look = place.pen
    every = max(1, math.ceil(len(line.x) / _MARKERS))
    number, count = among
    marked = slice(number * every // count, None, every)
    axis.plot(
        line.x / scale,
        line.mean,
        color=look.colour,
        linestyle=look.dash,
        marker=look.marker,
        markevery=marked,
        drawstyle="default" if x == "round" else "steps-post",
        label=line.label or None,
    )
    if line.runs == 1:
        return
    if count <= _BANDS:
        low, high = line.mean - line.sd, line.mean + line.sd
        step = None if x == "round" else "post"
        # pale inside, so that two of them make no grey; an edge of its own shows whose it is
        faces = {"facecolor": (look.colour, 0.1), "edgecolor": (look.colour, 0.6)}
        axis.fill_between(line.x / scale, low, high, step=step, linewidth=0.5, **faces)
    else:
        apart = max(every, count)  # whiskers of two lines stand beside each other
        some = slice(number * apart // count, None, apart)
        at, mean, sd = (values[some] for values in (line.x / scale, line.mean, line.sd))
        axis.errorbar(at, mean, sd, fmt="none", ecolor=look.colour, elinewidth=0.7, capsize=1.2)


def _context(axis: Axes, lines: Sequence[Curve], scale: float, x: str) -> None:
    """All means in pale grey, behind the panel's own."""
    for line in lines:
        style = "default" if x == "round" else "steps-post"
        pale = {"color": "#bbbbbb", "linewidth": 0.6, "zorder": 1}
        axis.plot(line.x / scale, line.mean, drawstyle=style, **pale)


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
