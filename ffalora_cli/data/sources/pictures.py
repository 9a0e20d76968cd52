"""Decodes the images of a table, and tells which of them are one."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ffalora_cli.config.errors import ConfigError, brief, one_line
from ffalora_cli.data.groups import as_keys

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
Decode = Callable[[int], np.ndarray]
"""Row -> its image, uint8 ``[height, width, 3]``."""


def decoder(values: Sequence[Any], folder: Path, place: Callable[[int], str]) -> Decode:
    """A function (row) -> its image in RGB, upright.

    Args:
        values: of each row a file's bytes, a path, or a mapping with ``bytes`` and ``path`` as the
            library `datasets` writes it.
        folder: that relative paths start from.
        place: where a row is, for people.
    """

    def decode(row: int) -> np.ndarray:
        from PIL import Image, ImageOps

        try:
            with Image.open(_file(values[row], folder)) as image:
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except FileNotFoundError as error:
            raise ConfigError(
                f"{place(row)}: no file {brief(str(error.filename), 80)}; correct the path "
                f"(relative ones start from {folder}), or remove the row"
            ) from error
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = one_line(str(error)).split(" '")[0].split(" <")[0]  # the place has the path
            raise ConfigError(
                f"{place(row)}: no image that can be decoded ({reason[:80]}); mend or remove the "
                "row"
            ) from error

    return decode


def picture_keys(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """A hash of each image's size and pixels, uint64 [n]."""
    return as_keys(
        np.array(image.shape, np.int32).tobytes() + image.tobytes() for image in pictures
    )


def pictures_by_class(folder: Path) -> list[Path]:
    """Images in a folder's sub-folders, one a class, in order; [] where there are none."""
    inside = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES)
    return [path for path in inside if path.is_file()]


def _file(value: Any, folder: Path) -> Any:
    """What Pillow opens: bytes as a stream, or a path."""
    path = value
    if isinstance(value, dict):
        path, value = value.get("path"), value.get("bytes")
    if isinstance(value, bytes):
        return io.BytesIO(value)
    if not isinstance(path, str):
        raise ValueError(f"it is {type(value).__name__}, neither bytes nor a path")
    return folder / Path(path).expanduser()
