"""Holds the images of a split as a model reads them: resized once, normalised batch by batch.

Pixels lie in one memory-mapped array. What says which images are one and the same (hashes, units of
privacy, what is kept together) is computed from decoded pixels, never from a file's bytes: two
files of one picture are one picture.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ffalora_cli.config.errors import ConfigError, one_line
from ffalora_cli.data.groups import KeyedRows, as_keys

if TYPE_CHECKING:
    import torch

    from ffalora_cli.models.processor import ImageProcessor

BATCH = 64  # images resized at once
DIGEST = 16  # bytes of an image's


@dataclass(frozen=True, kw_only=True)
class Pictures(KeyedRows):
    """The images of one split in the order of their source, to be decoded when they are wanted."""

    decode: Callable[[int], np.ndarray]  # row -> uint8 [height, width, 3]
    fingerprint: str  # of pixels, targets, clients and units, whatever the file format
    origin: str


@dataclass(frozen=True, kw_only=True)
class Images(KeyedRows):
    """A split as pixels: row ``i`` is ``pixels[places[i]]``."""

    pixels: np.ndarray  # uint8 [images, H, W, 3]
    places: np.ndarray  # int64 [n]
    digests: np.ndarray  # uint8 [n, DIGEST], BLAKE2b of each row's pixels
    tokens: int  # of every image
    scale: float  # of a pixel, before ``mean`` is taken off and ``std`` divides
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str  # of the rows, not of the pixels at the model's size
    empty_texts: int = 0

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int32 [n], all equal."""
        return np.full(len(self), self.tokens, np.int32)

    @property
    def sequence_keys(self) -> np.ndarray:
        """uint64 [n], equal for images that are one to the model."""
        return np.ascontiguousarray(self.digests[:, :8]).view("<u8").reshape(-1)

    def inputs(self, rows: np.ndarray, pad_to: int | None = None) -> dict[str, torch.Tensor]:
        """Images as the model's own processor would give them, ``pixel_values`` [b, 3, H, W].

        Args:
            rows: row numbers, [b]; repeats allowed.
            pad_to: of no meaning here: all images have one size.
        """
        import torch

        found = torch.from_numpy(self.pixels[self.places[np.asarray(rows)]]).permute(0, 3, 1, 2)
        mean, std = (torch.tensor(of)[:, None, None] for of in (self.mean, self.std))
        return {"pixel_values": (found.float() * self.scale - mean) / std}

    def take(self, rows: np.ndarray) -> Images:
        """Some rows as a split of its own; the pixels stay where they are. rows: [m]."""
        rows = np.asarray(rows, dtype=np.int64)
        chosen = hashlib.blake2b(self.fingerprint.encode(), digest_size=16)
        chosen.update(rows.tobytes())
        own = vars(self.keyed(rows)) | {"places": self.places[rows], "digests": self.digests[rows]}
        return replace(self, **own, fingerprint=chosen.hexdigest())


def resize(pictures: Pictures, processor: ImageProcessor) -> Images:
    """Decode every image of a split and resize it as the model's processor does."""
    count, shape = len(pictures), (len(pictures), *processor.size, 3)
    pixels = np.memmap(tempfile.TemporaryFile(), np.uint8, "w+", shape=shape)  # noqa: SIM115
    for start in range(0, count, BATCH):
        some = [pictures.decode(row) for row in range(start, min(start + BATCH, count))]
        pixels[start : start + BATCH] = processor.pixels(some)
    digests = [hashlib.blake2b(image, digest_size=DIGEST).digest() for image in pixels]
    return Images(
        **{part.name: getattr(pictures, part.name) for part in fields(KeyedRows)},
        pixels=pixels,
        places=np.arange(count),
        digests=np.frombuffer(b"".join(digests), np.uint8).reshape(count, DIGEST),
        tokens=processor.tokens,
        scale=processor.scale,
        mean=processor.mean,
        std=processor.std,
        fingerprint=pictures.fingerprint,
    )


def picture_keys(pictures: Iterator[np.ndarray]) -> np.ndarray:
    """A hash of each image's size and pixels, uint64 [n]."""
    return as_keys(np.array(image.shape, np.int32).tobytes() + image.tobytes() for image in pictures)


def decoder(
    values: Sequence[Any], folder: Path | None, place: Callable[[int], str]
) -> Callable[[int], np.ndarray]:
    """A function (row) -> its image as uint8 ``[height, width, 3]``, upright.

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
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ConfigError(
                f"{place(row)}: no image that can be decoded ({one_line(str(error))[:80]}); mend or "
                "remove the row"
            ) from error

    return decode


def _file(value: Any, folder: Path | None) -> Any:
    """What Pillow opens: bytes as a stream, or a path."""
    path = value
    if isinstance(value, dict):
        path, value = value.get("path"), value.get("bytes")
    if isinstance(value, bytes):
        return io.BytesIO(value)
    if not isinstance(path, str):
        raise ValueError(f"it is {type(value).__name__}, neither bytes nor a path")
    return (folder or Path()) / Path(path).expanduser()
