"""Writes pictures: files of three kinds with their numbers beside them, or a part of a page."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.records.files import write_whole
from ffalora_cli.report.csv_text import csv_text
from ffalora_cli.report.figures.style import PENS, Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
INK = "#010203"  # the text colour of a picture that takes its page's own: see ``inline_svg``
_DATE_KEY = {".png": "Creation Time", ".svg": "Date", ".pdf": "CreationDate"}  # left out of files


def save(picture: Picture, path: Path) -> list[Path]:
    """Write the picture as PNG, SVG and PDF and its numbers as CSV, beside each other.

    Args:
        picture: to save, under ``styled``.
        path: of one of them; the others differ in the suffix.

    Returns:
        The four files.

    Raises:
        ConfigError: another suffix, or a folder that cannot be written.
    """
    if path.suffix not in ("", *SUFFIXES):
        kinds = ", ".join(SUFFIXES)
        raise ConfigError(f"-o {path.name}: a picture is {kinds}; try {path.stem}.pdf")
    files = [path.with_suffix(suffix) for suffix in SUFFIXES]
    for file in files:
        save_one(picture.figure, file, "-o")
    numbers = path.with_suffix(".csv")
    write_whole(numbers, csv_text(picture.rows).encode())
    return [*files, numbers]


def save_one(figure: Figure, path: Path, option: str) -> None:
    """Write one picture; its suffix says of what kind.

    Raises:
        ConfigError: a folder that cannot be written; names the ``option`` that chose it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, _rendered(figure, path.suffix, "white"))
    except OSError as error:
        raise ConfigError(
            f"{option} {path}: cannot be written ({error.strerror}); choose another"
        ) from error


def inline_svg(picture: Picture, name: str) -> str:
    """The picture as an element for a page, in the page's own text colour, light or dark.

    Args:
        picture: drawn under ``styled(INK)``.
        name: of the picture in its page, so that ids of two pictures never meet.
    """
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": name}):
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
    metadata = {_DATE_KEY[suffix]: None}
    figure.savefig(content, format=suffix[1:], dpi=300, facecolor=background, metadata=metadata)
    return content.getvalue()
