"""Draws what ``diagnostics=mechanism`` measured, round by round: a row of panels a quantity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.metric_keys import (
    CLIENT_COSINE,
    CLIENT_DRIFT,
    CLIPPED,
    GAP,
    NOISE_RATIO,
)
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.report.figures.curves import draw_line
from ffalora_cli.report.figures.places import arranged
from ffalora_cli.report.figures.series import X_AXES, Curve, Grouping, curve
from ffalora_cli.report.figures.style import (
    Picture,
    folded,
    legend_below,
    new_figure,
    plain_numbers,
    plain_x,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROWS = {
    GAP: "aggregation\ngap",
    NOISE_RATIO: "noise product\n/ linear",
    CLIENT_DRIFT: "client\ndrift",
    CLIENT_COSINE: "cosine of\nclients",
    CLIPPED: "share\nclipped",
}
"""A quantity a row, in the words at its axis."""
_MEANING = (
    "by round: norm of mean(B A) - mean(B) mean(A) over that of the update; norm of z_B z_A over "
    "that of z_B A + B z_A, of the noise planned for an upload; distance of a client's update "
    "from the mean one over the norm of the mean; cosine between two clients' updates; share of "
    "units clipped"
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
            look = looks[label]
            draw_line(
                grid[row][look.panel], line, look, 1.0, "round", (look.colour, look.colour + 1)
            )
        _rule(grid[row][0], key)
    for axis, title in zip(grid[0], places.titles, strict=True):
        axis.set_title(folded(title, figure.get_figwidth() / len(places.titles)))
        plain_x(axis, whole=True)
    inner.supxlabel(X_AXES["round"])
    inner.align_ylabels()
    if handles:
        legend_below(figure, handles, names)
    return Picture(figure, _MEANING, _rows(found), _notes(grouping, found, measured))


def _found(grouping: Grouping) -> Found:
    """The curves that there are."""
    found: Found = {}
    for key in ROWS:
        groups = [g for g in grouping.groups if key != CLIPPED or _private(g.runs)]
        lines = [curve(group, "round", key) for group in groups]
        if there := {line.label: line for line in lines if line is not None}:
            found[key] = there
    return found


def _rule(axis: Axes, key: str) -> None:
    """Words and numbers of a row's axis; all but the cosine begin at zero."""
    axis.set_ylabel(ROWS[key])
    axis.yaxis.set_major_formatter(plain_numbers())
    axis.yaxis.get_major_locator().set_params(nbins=4)
    if key == CLIENT_COSINE:
        axis.axhline(0.0, color="#777777", linewidth=0.6, zorder=1)
    else:
        top = max(axis.get_ylim()[1], axis.dataLim.y1)
        axis.set_ylim(-0.05 * top, 1.05 * top)  # markers at both ends are whole


def _private(runs: Sequence[RunRecords]) -> bool:
    return any(run.config["privacy"]["unit"] != "none" for run in runs)


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
    if CLIPPED in found:
        notes.append(
            "private runs among them: the share clipped is no part of the guarantee, keep the "
            "picture"
        )
    return tuple(notes)
