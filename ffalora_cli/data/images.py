"""Holds the images of a split as a model reads them: resized once, normalised batch by batch.

Pixels lie in one memory-mapped array. What says which images are one and the same (hashes, units of
privacy, what is kept together) is computed from decoded pixels, never from a file's bytes: two
files of one picture are one picture.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ffalora_cli.data.encode import Split
from ffalora_cli.data.groups import KeyedRows

if TYPE_CHECKING:
    import torch

    from ffalora_cli.data.load import Rows
    from ffalora_cli.models.processor import ImageProcessor

BATCH = 64  # images resized at once
DIGEST = 16  # bytes of an image's


@dataclass(frozen=True, kw_only=True)
class Images(Split):
    """A split as pixels: row ``i`` is ``pixels[places[i]]``."""

    ARRAYS = ("pixels", "places", "digests", "targets", "clients", "hashes", "text_keys",
              "unit_keys")  # fmt: skip
    FACTS = (*Split.FACTS, "tokens", "scale", "mean", "std")
    UNHASHED = ("pixels", "places")
    pixels: np.ndarray  # uint8 [images, H, W, 3]
    places: np.ndarray  # int64 [n]
    digests: np.ndarray  # uint8 [n, DIGEST], BLAKE2b of each row's pixels
    tokens: int  # of every image
    scale: float  # of a pixel, before ``mean`` is taken off and ``std`` divides
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int32 [n], all equal."""
        return np.full(len(self), self.tokens, np.int32)

    @property
    def sequence_keys(self) -> np.ndarray:
        """uint64 [n], equal for images that are one to the model."""
        return np.ascontiguousarray(self.digests[:, :8]).view("<u8").reshape(-1)

    @property
    def stored_bytes(self) -> int:
        """What the rows take in the cache."""
        return len(self) * (self.pixels[0].nbytes + DIGEST + 16)

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
        own = vars(self.keyed(rows)) | {"places": self.places[rows], "digests": self.digests[rows]}
        return replace(self, **own, fingerprint=self.chosen(rows))


def resize(rows: Rows, processor: ImageProcessor) -> Images:
    """Decode every image of a split and resize it as the model's processor does."""
    assert rows.decode is not None
    count = len(rows)
    with tempfile.TemporaryFile() as file:  # the map keeps it
        pixels = np.memmap(file, np.uint8, "w+", shape=(count, *processor.size, 3))
    for start in range(0, count, BATCH):
        some = [rows.decode(row) for row in range(start, min(start + BATCH, count))]
        pixels[start : start + BATCH] = processor.pixels(some)
    digests = [hashlib.blake2b(image, digest_size=DIGEST).digest() for image in pixels]
    return Images(
        **{part.name: getattr(rows, part.name) for part in fields(KeyedRows)},
        pixels=pixels,
        places=np.arange(count),
        digests=np.frombuffer(b"".join(digests), np.uint8).reshape(count, DIGEST),
        tokens=processor.tokens,
        scale=processor.scale,
        mean=processor.mean,
        std=processor.std,
        fingerprint=rows.fingerprint,
    )
