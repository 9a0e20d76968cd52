"""Draws clients x labels: bars for a few clients, a heat map for many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.report.figures.files import SUFFIXES, save_one
from ffalora_cli.report.figures.style import (
    COLOURS,
    PAGE,
    legend_below,
    new_figure,
    plain_x,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAR_CLIENTS = 30  # more clients or classes than this are drawn as a heat map
BANDS = 200  # more clients than this are averaged in bands

HATCHES = ("", "//", "", "\\\\", "..", "", "xx", "")


def draw(table: np.ndarray, class_names: Sequence[str], path: Path | str, title: str) -> Path:
    """Draw the rows of each label at each client and save the picture.

    Args:
        table: rows, int [clients, classes], as ``data.partition.partition.strata_table`` gives it.
        class_names: in label order.
        path: file to write; ``.png``, ``.svg`` or ``.pdf`` decides the format.
        title: heading of the picture.

    Returns:
        The path.

    Raises:
        ConfigError: another suffix, or a folder that cannot be written.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        kinds = ", ".join(SUFFIXES)
        raise ConfigError(f"{path}: a picture ends in {kinds}; try {path.with_suffix('.png')}")
    with styled(width=PAGE):
        figure = compose(table, class_names)
        figure.suptitle(title, x=0.01, ha="left")
        save_one(figure, path, "--figure")
    return path


def compose(table: np.ndarray, class_names: Sequence[str]) -> Figure:
    """The picture without its heading. To be called under ``style.styled``.

    A column has room for the numbers of rows alone; a page has their shares beside them.

    Args:
        table: rows, int [clients, classes].
        class_names: in label order.
    """
    if table.shape[0] <= BAR_CLIENTS and table.shape[1] <= len(COLOURS):
        figure = new_figure(0.7 + 0.22 * max(3, table.shape[0]), class_names)
        _bars(figure, table, class_names)
    else:
        figure = new_figure(3.2)
        _heat_map(figure, table, class_names)
    return figure


def _bars(figure: Figure, table: np.ndarray, class_names: Sequence[str]) -> None:
    """Two panels of stacked bars, rows on the left and shares on the right."""
    clients = np.arange(len(table))
    sizes = table.sum(axis=1)
    shares = table / np.maximum(sizes, 1)[:, None]
    if figure.get_figwidth() < PAGE:
        panels = [(figure.subplots(), table)]
    else:
        left_axis, right_axis = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        panels = [(left_axis, table), (right_axis, shares * 100)]
        right_axis.set(xlabel="share of the client's rows (%)", xlim=(0, 100))
    counts_axis = panels[0][0]
    for axis, values in panels:
        left = np.zeros(len(table))
        for label, name in enumerate(class_names):
            axis.barh(
                clients,
                values[:, label],
                left=left,
                color=COLOURS[label],
                hatch=HATCHES[label],
                edgecolor="white",
                linewidth=0.6,
                label=name,
            )
            left = left + values[:, label]
        _plain(axis)
    room = 1.14 if len(panels) > 1 else 1.25  # for the numbers at the ends of the bars
    for client, size in enumerate(sizes):
        counts_axis.text(size, client, f" {size:,}", va="center")
    counts_axis.set(
        xlabel="rows", ylabel="client", yticks=clients, xlim=(0, max(sizes.max(), 1) * room)
    )
    plain_x(counts_axis, whole=True)
    counts_axis.set_ylim(len(table) - 0.5, -0.5)  # client 0 on top
    legend_below(figure, *counts_axis.get_legend_handles_labels())


def _heat_map(figure: Figure, table: np.ndarray, class_names: Sequence[str]) -> None:
    """Shares as colour, sizes as a curve beside it; many clients are averaged in bands."""
    edges = np.linspace(0, len(table), min(len(table), BANDS) + 1).round().astype(int)
    banded = np.add.reduceat(table, edges[:-1], axis=0)  # [bands, classes]
    sizes = banded.sum(axis=1)
    shares = banded / np.maximum(sizes, 1)[:, None] * 100
    map_axis, size_axis = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    extent = (-0.5, table.shape[1] - 0.5, len(table) - 0.5, -0.5)
    image = map_axis.imshow(
        shares, aspect="auto", interpolation="nearest", cmap="cividis", vmin=0, extent=extent
    )
    map_axis.grid(False)
    banding = f"client (averaged in {BANDS} bands)" if len(table) > BANDS else "client"
    map_axis.set(xlabel="label, in class order", ylabel=banding)
    if len(class_names) <= 20:
        slanted = len(class_names) > 6 or sum(map(len, class_names)) > 9 * figure.get_figwidth()
        map_axis.set_xticks(
            range(len(class_names)),
            class_names,
            rotation=40 if slanted else 0,
            ha="right" if slanted else "center",
        )
    centres = (edges[:-1] + edges[1:] - 1) / 2
    per_client = sizes / np.diff(edges)
    size_axis.barh(centres, per_client, height=np.diff(edges), color=COLOURS[0], linewidth=0)
    size_axis.set(xlabel="rows", xlim=(0, max(per_client.max() * 1.05, 1)))
    _plain(size_axis)
    figure.colorbar(image, ax=map_axis, location="left", label="share of the client's rows (%)")


def _plain(axis: Axes) -> None:
    axis.grid(False)
