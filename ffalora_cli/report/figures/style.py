"""Styles pictures: column width, letters that can be read there, colours for every eye.

Colours are Okabe and Ito's (told apart with any kind of colour vision), without the yellow that
white paper swallows; a dash pattern and a marker of its own let each line be told in grey.
"""

from __future__ import annotations

import csv
import io
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.records.files import write_whole
from ffalora_cli.tasks.registry import is_percent

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 3.4  # inches: a column of the usual two-column page
LETTERS = 8.0  # points; the smallest are 7
_LABEL = 44  # letters of a legend that fit the column beside their line
INK = "#010203"  # the text colour of a picture that takes its page's own: see ``inline_svg``
DATE_KEY = {".png": "Creation Time", ".svg": "Date", ".pdf": "CreationDate"}  # left out of files

# Okabe and Ito's palette for areas, with their yellow; hatches tell them apart in grey.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")


@dataclass(frozen=True)
class Pen:
    """What tells one line from the others: three times over."""

    colour: str
    dash: Any
    marker: str


PENS = (
    Pen("#0072B2", "-", "o"),
    Pen("#D55E00", (0, (4, 1.5)), "s"),
    Pen("#009E73", (0, (1, 1)), "^"),
    Pen("#CC79A7", (0, (5, 1, 1, 1)), "D"),
    Pen("#E69F00", (0, (7, 1.5)), "v"),
    Pen("#56B4E9", (0, (3, 1, 1, 1, 1, 1)), "P"),
    Pen("#777777", (0, (2, 2)), "X"),
)


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
def styled(ink: str = "#000000") -> Iterator[None]:
    """Drawing in our style; ``ink`` is the colour of text and axes."""
    import matplotlib

    keys = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    settings = dict.fromkeys(keys, ink) | {
        "font.size": LETTERS,
        "axes.labelsize": LETTERS,
        "axes.titlesize": LETTERS,
        "xtick.labelsize": 7.5,
        "ytick.labelsize": 7.5,
        "legend.fontsize": 7.5,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "grid.linewidth": 0.5,
        "lines.linewidth": 1.3,
        "lines.markersize": 3.5,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "svg.hashsalt": "ffalora",
        "text.parse_math": False,  # a run's name may hold a dollar
    }
    with matplotlib.rc_context(settings):
        yield


def column_figure(height: float, labels: Sequence[str]) -> tuple[Figure, Axes]:
    """A figure of column width whose legend has room below axes of ``height`` inches."""
    from matplotlib.figure import Figure

    folded = [_folded(label) for label in labels]
    tallest = max(label.count("\n") + 1 for label in folded)
    lines = tallest * math.ceil(len(labels) / _columns(folded))
    figure = Figure(figsize=(WIDTH, height + 0.16 * lines), layout="constrained")
    return figure, figure.subplots()


def legend_below(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """A legend under the axes, where it covers nothing, in as many columns as fit."""
    folded = [_folded(label) for label in labels]
    figure.legend(
        handles,
        folded,
        loc="outside lower center",
        ncols=_columns(folded),
        frameon=False,
        columnspacing=1.2,
        handlelength=2.6,
    )


def _columns(labels: Sequence[str]) -> int:
    longest = max(len(line) for label in labels for line in label.splitlines() or [""])
    fits = int(WIDTH * 72 // (LETTERS * (0.52 * longest + 4)))
    return max(1, min(fits, len(labels)))


def _folded(label: str) -> str:
    """A label that fits the column."""
    return textwrap.fill(label, _LABEL)


def share_axis(axis: Axes, metric: str) -> None:
    """A y axis for a metric, in percent where its task declares a share of one."""
    shown = metric.rsplit("/", 1)[-1].replace("_", " ")
    if not is_percent(metric):
        axis.set_ylabel(shown)
        return
    axis.set_ylabel(f"{shown}, %")
    axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}")


def byte_unit(largest: float) -> tuple[float, str]:
    """(bytes in a unit, its name) so that the largest value has one to three digits."""
    for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if largest >= size:
            return size, name
    return 1.0, "B"


def save(picture: Picture, path: Path) -> list[Path]:
    """Write the picture as PNG and SVG and its numbers as CSV, beside each other.

    Args:
        picture: to save.
        path: of one of them; the others differ in the suffix.

    Returns:
        The three files.

    Raises:
        ConfigError: another suffix, or a folder that cannot be written.
    """
    if path.suffix not in ("", ".png", ".svg"):
        raise ConfigError(f"-o {path.name}: a picture is .png and .svg; try {path.stem}.png")
    files = [path.with_suffix(suffix) for suffix in (".png", ".svg", ".csv")]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for file in files[:2]:
            write_whole(file, _rendered(picture.figure, file.suffix, "white"))
        write_whole(files[2], csv_text(picture.rows).encode())
    except OSError as error:
        raise ConfigError(f"-o {path}: cannot be written ({error.strerror})") from error
    return files


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Rows as CSV with a header (of the first row's keys, if not told); empty for what is None."""
    text = io.StringIO()
    names = columns or list(rows[0] if rows else ())
    if names:
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def inline_svg(picture: Picture, name: str) -> str:
    """The picture as an element for a page, in the page's own text colour, light or dark.

    Args:
        picture: drawn under ``styled(INK)``.
        name: of the picture in its page, so that ids of two pictures never meet.
    """
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        text = _rendered(picture.figure, ".svg", "none").decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)[\")]", text))
    ids = r' id="([\w.-]+)"'
    text = re.sub(ids, lambda hit: hit[0] if hit[1] in used else "", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?)( height="[^"]*"| width="[^"]*")', r"\1", text, count=2)
    for slot, look in enumerate(PENS):  # the page has each in a shade that its background bears
        text = text.replace(look.colour.lower(), f"var(--pen{slot})")
    return text.replace(INK, "currentColor")


def _rendered(figure: Figure, suffix: str, background: str) -> bytes:
    content = io.BytesIO()
    metadata = {DATE_KEY[suffix]: None}
    figure.savefig(content, format=suffix[1:], dpi=300, facecolor=background, metadata=metadata)
    return content.getvalue()
