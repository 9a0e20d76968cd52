"""Draws what ``diagnostics=mechanism`` measured, round by round: a row of panels a quantity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.metric_keys import (
    CLIENT_COSINE,
    CLIENT_DRIFT,
    CLIPPED,
    GAP,
    NOISE_LINEAR,
    NOISE_PRODUCT,
)
from ffalora_cli.report.figures.curves import draw_line
from ffalora_cli.report.figures.places import Place, arranged
from ffalora_cli.report.figures.series import X_AXES, Curve, Grouping, curve
from ffalora_cli.report.figures.style import (
    Picture,
    legend_below,
    new_figure,
    plain_numbers,
    plain_x,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROWS = {
    GAP: "aggregation\ngap",
    NOISE_PRODUCT: "norm of\nnoise in \N{GREEK CAPITAL LETTER DELTA}W",
    CLIENT_DRIFT: "client\ndrift",
    CLIENT_COSINE: "cosine of\nclients",
    CLIPPED: "share\nclipped",
}
"""A quantity a row, in the words at its axis; the linear terms of the noise stand beside it."""
_BESIDE = {"linewidth": 0.7, "alpha": 0.7}
_MEANING = (
    "by round: norm of mean(B A) - mean(B) mean(A) over that of the update; norm of z_B z_A and "
    "(thin, unmarked) of z_B A + B z_A in an upload, of the planned noise; distance of a client's "
    "update from the mean one, over its norm; cosine between two clients' updates; share of units "
    "clipped"
)
_HEIGHT = 0.95  # inches of a row

Found = dict[str, dict[str, Curve]]
"""Metric -> label of the group -> its curve."""


def draw(grouping: Grouping) -> Picture:
    """Draw every quantity that some run has. To be called under ``style.styled``.

    Args:
        grouping: of ``grouping.group_runs``.

    Raises:
        ConfigError: no run has measured its uploads.
    """
    found = _found(grouping)
    measured = {label for key in ROWS if key != CLIPPED for label in found.get(key, ())}
    if not measured:
        raise ConfigError("--kind mechanism: no run measured it; run with diagnostics=mechanism")
    shown = [key for key in ROWS if key in found]
    places, looks = arranged(grouping)
    handles, names = places.legend()
    figure = new_figure(_HEIGHT * len(shown) + 0.35, names)
    inner = figure.subfigures()  # a legend outside of it does not lie on its labels
    sharing = {"sharex": True, "sharey": "row", "squeeze": False}
    grid = inner.subplots(len(shown), len(places.titles), **sharing)
    for row, key in enumerate(shown):
        for label, line in found[key].items():
            beside = found.get(NOISE_LINEAR, {}).get(label) if key == NOISE_PRODUCT else None
            _panel(grid[row][looks[label].panel], line, looks[label], beside)
        _rule(grid[row][0], key)
    for axis, title in zip(grid[0], places.titles, strict=True):
        axis.set_title(title)
        plain_x(axis, whole=True)
    inner.supxlabel(X_AXES["round"])
    inner.align_ylabels()
    if handles:
        legend_below(figure, handles, names)
    return Picture(figure, _MEANING, _rows(found), _notes(grouping, found, measured))


def _found(grouping: Grouping) -> Found:
    """The curves that there are."""
    found: Found = {}
    for key in (*ROWS, NOISE_LINEAR):
        lines = [curve(group, "round", key) for group in grouping.groups]
        if there := {line.label: line for line in lines if line is not None}:
            found[key] = there
    return found


def _panel(axis: Axes, line: Curve, place: Place, beside: Curve | None) -> None:
    """A line, and the linear terms of its noise."""
    draw_line(axis, line, place, 1.0, "round", (place.colour, place.colour + 1))
    if beside is not None:
        look = place.pen
        axis.plot(beside.x, beside.mean, color=look.colour, linestyle=look.dash, **_BESIDE)


def _rule(axis: Axes, key: str) -> None:
    """Words and numbers of a row's axis; all but the cosine begin at zero."""
    axis.set_ylabel(ROWS[key])
    axis.yaxis.set_major_formatter(plain_numbers())
    axis.yaxis.get_major_locator().set_params(nbins=4)
    if key == CLIENT_COSINE:
        axis.axhline(0.0, color="#777777", linewidth=0.6, zorder=1)
    else:
        axis.set_ylim(bottom=0.0)


def _rows(found: Found) -> list[dict[str, Any]]:
    """Every point of the picture."""
    return [
        {
            "metric": key,
            "group": line.label,
            "round": float(at),
            "value": sample.mean,
            "sd": sample.sd,
            "runs": sample.count,
        }
        for key, lines in found.items()
        for line in lines.values()
        for at, sample in zip(line.x, line.samples, strict=True)
    ]


def _notes(grouping: Grouping, found: Found, measured: set[str]) -> tuple[str, ...]:
    notes = [*grouping.notes, *grouping.absent(measured, "diagnostics=mechanism")]
    private = any(run.config["privacy"]["unit"] != "none" for run in grouping.runs)
    if CLIPPED in found and private:
        notes.append(
            "private runs among them: the share clipped is no part of the guarantee, keep the "
            "picture"
        )
    return tuple(notes)
