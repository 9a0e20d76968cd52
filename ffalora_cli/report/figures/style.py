"""Styles pictures: a column's width, letters of 8 points in it, colours for every eye.

The first four colours differ by more than 10 in lightness (CIE L*) and, seen without red or green
cones, by more than 25 (CIE76): they can be told apart in grey and by any eye. Each colour has a
marker of its own, too.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ffalora_cli.tasks.registry import is_percent

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLUMN, PAGE = 3.25, 6.75  # inches: of the usual two-column page
LETTERS = 8.0  # points, all of them
_LETTER = 0.54 * LETTERS / 72  # inches: one letter's mean width
_LINE = 0.5  # inches of a legend's entry before its words


@dataclass(frozen=True)
class Pen:
    """What tells one line from the others: three times over."""

    colour: str
    dash: Any
    marker: str


PENS = (
    Pen("#08407C", "-", "o"),
    Pen("#D55E00", (0, (4, 1.5)), "s"),
    Pen("#4AA8E0", (0, (1, 1)), "^"),
    Pen("#00704F", (0, (5, 1, 1, 1)), "D"),
    Pen("#E69F00", (0, (7, 1.5)), "v"),
    Pen("#CC79A7", (0, (3, 1, 1, 1, 1, 1)), "P"),
    Pen("#777777", (0, (2, 2)), "X"),
)
COLOURS = (*(one.colour for one in PENS), "#F0E442")  # of areas, which bear a yellow, too


@dataclass(frozen=True)
class Picture:
    """A figure, what it shows in words, and the numbers in it."""

    figure: Figure
    words: str
    rows: Sequence[Mapping[str, Any]]  # one a point; the keys of the first are the columns
    notes: tuple[str, ...] = ()


def pen(index: int) -> Pen:
    """The pen of a line; past the seventh, colours come again with another line and marker."""
    turn, slot = divmod(index, len(PENS))
    other = PENS[(slot + 3 * turn) % len(PENS)]
    return Pen(PENS[slot].colour, other.dash, other.marker)


@contextmanager
def styled(ink: str = "#000000", width: float = COLUMN) -> Iterator[None]:
    """Drawing in our style.

    Args:
        ink: colour of text and axes.
        width: of every figure, inches.
    """
    import matplotlib

    keys = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    settings = dict.fromkeys(keys, ink) | {
        "figure.figsize": (width, 0.62 * width),
        "figure.titlesize": LETTERS,
        "figure.labelsize": LETTERS,
        "font.size": LETTERS,
        "axes.labelsize": LETTERS,
        "axes.titlesize": LETTERS,
        "xtick.labelsize": LETTERS,
        "ytick.labelsize": LETTERS,
        "legend.fontsize": LETTERS,
        "axes.linewidth": 0.6,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "axes.titlepad": 3.0,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "grid.linewidth": 0.5,
        "lines.linewidth": 1.2,
        "lines.markersize": 3.2,
        "hatch.linewidth": 0.7,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "pdf.fonttype": 42,  # letters stay letters; type 3, the default, is refused by many venues
        "svg.fonttype": "none",
        "svg.hashsalt": "ffalora",
        "text.parse_math": False,  # a run's name may hold a dollar
    }
    with matplotlib.rc_context(settings):
        yield


def new_figure(height: float, labels: Sequence[str] = ()) -> Figure:
    """A figure of the width that ``styled`` was told.

    Args:
        height: inches of all but the legend.
        labels: of the legend that will stand below.
    """
    import matplotlib
    from matplotlib.figure import Figure

    width = matplotlib.rcParams["figure.figsize"][0]
    tallest = max((folded(label, width).count("\n") + 1 for label in labels), default=0)
    lines = tallest * math.ceil(len(labels) / _columns(labels, width))
    return Figure(figsize=(width, height + 0.16 * lines), layout="constrained")


def panel_figure(
    titles: Sequence[str], labels: Sequence[str], below: str, beside: str
) -> tuple[Figure, list[Axes]]:
    """A figure of one axes a title, all of one scale, with room for a legend below.

    Args:
        titles: of the panels, in rows; a single one may be empty.
        labels: of the legend.
        below: words under the common x axis.
        beside: words at the common y axis.
    """
    import matplotlib

    width = matplotlib.rcParams["figure.figsize"][0]
    rows = math.ceil(len(titles) / max(1, round(width / 1.6)))
    columns = math.ceil(len(titles) / rows)
    each = min(3.0, 0.62 * width if columns == 1 else 0.72 * width / columns + 0.15)
    figure = new_figure(rows * each + 0.2, labels)
    inner = figure.subfigures()  # a legend outside of it does not lie on its labels
    grid = inner.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    axes = list(grid.flat)
    for axis in axes[len(titles) :]:
        axis.remove()
    for axis, title in zip(axes, titles, strict=False):
        axis.set_title(textwrap.fill(title, int(width / columns / _LETTER)))
    for axis in axes[len(titles) - columns : len(titles)]:  # also above a place that is empty
        axis.tick_params(labelbottom=True)
    inner.supxlabel(below)
    inner.supylabel(beside)
    return figure, axes[: len(titles)]


def legend_below(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """A legend under the axes, where it covers nothing, in as many columns as fit."""
    width = figure.get_figwidth()
    figure.legend(
        handles,
        [folded(label, width) for label in labels],
        loc="outside lower center",
        ncols=_columns(labels, width),
        frameon=False,
        columnspacing=1.2,
        handlelength=2.4,
        borderaxespad=0.2,
    )


def _columns(labels: Sequence[str], width: float) -> int:
    lines = [line for label in labels for line in folded(label, width).splitlines()]
    fits = int(width / (_LETTER * max(map(len, lines), default=1) + _LINE))
    return max(1, min(fits, len(labels)))


def folded(label: str, width: float) -> str:
    """A label in lines that fit ``width`` inches, beside its line of the legend."""
    return textwrap.fill(label, int((width - _LINE) / _LETTER))


def score_axis(axis: Axes, metric: str) -> None:
    """Number a y axis, in percent where the metric's task declares a share of one."""
    axis.yaxis.set_major_formatter(plain_numbers(100.0 if is_percent(metric) else 1.0))
    axis.yaxis.get_major_locator().set_params(nbins=5)


def score_words(metric: str) -> str:
    """A metric as an axis says it, with its unit."""
    shown = metric.rsplit("/", 1)[-1].replace("_", " ")
    return f"{shown} (%)" if is_percent(metric) else shown


def plain_numbers(factor: float = 1.0) -> Callable[[float, Any], str]:
    """Writes ticks as numbers: a true minus, no powers of ten, thousands apart."""

    def written(value: float, _: Any) -> str:
        return f"{round(factor * value, 10):,.10g}".replace("-", "\N{MINUS SIGN}")

    return written


def plain_x(axis: Axes, whole: bool = False) -> None:
    """A linear x axis with few and plain numbers."""
    axis.xaxis.set_major_formatter(plain_numbers())
    axis.xaxis.get_major_locator().set_params(integer=whole, nbins=5)


def log(axis: Axis) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(plain_numbers())
