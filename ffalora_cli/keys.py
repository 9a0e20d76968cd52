"""Keyed randomness: every draw is a function of (key, purpose, coordinates); no state is kept.

A leaf beside ``types`` (data, engine and federation all draw). Rule 1 of the design: same key and
coordinates give the same bits, whatever was drawn before, in any order, on any number of threads.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Key = bytes


def derive(key: Key | int | str, *coordinates: int | str) -> Key:
    """Hash a key and its coordinates to a 32-byte child key (BLAKE2b).

    Args:
        key: parent key, or a seed.
        coordinates: purpose first, then client, round, step, tensor as far as they apply.

    Returns:
        32 bytes; equal exactly when key and coordinates (with their types) are equal.
    """
    digest = hashlib.blake2b(digest_size=32)
    for part in (key, *coordinates):
        kind = type(part).__name__[0].encode()
        raw = part if isinstance(part, bytes) else str(part).encode()
        digest.update(kind + len(raw).to_bytes(4, "little") + raw)
    return digest.digest()


def numpy_generator(key: Key) -> np.random.Generator:
    """A counter-based (Philox) numpy generator for this key."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))


def fill_normal(target: torch.Tensor, key: Key) -> None:
    """Fill a tensor with standard normal values, drawn where it is (bits differ between devices).

    torch's generator on the CPU keeps 32 bits of its seed: of 65,000 draws two are expected to be
    the same, and noise could be found by trying all seeds. numpy's Philox takes 128 bits of the
    key; torch's on a GPU is a Philox, too, and takes 63.
    """
    import torch

    if target.device.type == "cpu":
        drawn = numpy_generator(key).standard_normal(tuple(target.shape), dtype=np.float32)
        target.copy_(torch.from_numpy(drawn))
    else:
        generator = torch.Generator(device=target.device).manual_seed(torch_seed(key))
        target.normal_(generator=generator)


def torch_seed(key: Key) -> int:
    """A 63-bit seed for ``torch.Generator.manual_seed`` (on the CPU 32 bits of it are used)."""
    return int.from_bytes(key[:8], "little") >> 1


def normal(key: Key, shape: tuple[int, ...], device: str | torch.device = "cpu") -> torch.Tensor:
    """Standard normal fp32 values ``shape``; drawn on ``device`` (bits differ between devices)."""
    import torch

    generator = torch.Generator(device=device).manual_seed(torch_seed(key))
    return torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
