"""Keyed randomness: every draw is a function of (key, purpose, coordinates); no state is kept.

A leaf beside ``types`` (data, engine and federation all draw). The same key and coordinates give
the same bits, whatever was drawn before, in any order, on any number of threads.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Key = bytes


class SecureKey(bytes):
    """A key whose normal values do not tell, by how they were rounded, what they were added to.

    ``privacy.noise=secure`` keys everything with one; whatever is derived from it is one, too.
    """


def derive(key: Key | int | str, *coordinates: int | str) -> Key:
    """Hash a key and its coordinates to a 32-byte child key (BLAKE2b).

    Args:
        key: parent key, or a seed.
        coordinates: purpose first, then client, round, step, tensor as far as they apply.

    Returns:
        32 bytes; equal exactly when key and coordinates (with their types) are equal. Of a
        ``SecureKey`` another.
    """
    digest = hashlib.blake2b(digest_size=32)
    for part in (key, *coordinates):
        kind = type(part).__name__[0].encode()
        raw = part if isinstance(part, bytes) else str(part).encode()
        digest.update(kind + len(raw).to_bytes(4, "little") + raw)
    child = digest.digest()
    return SecureKey(child) if isinstance(key, SecureKey) else child


def numpy_generator(key: Key) -> np.random.Generator:
    """A counter-based (Philox) numpy generator for this key."""
    return np.random.Generator(_philox(key))


def _philox(key: Key) -> np.random.Philox:
    return np.random.Philox(key=int.from_bytes(key[:16], "little"))


def standard_normal(
    shape: tuple[int, ...], key: Key, device: str | torch.device = "cpu"
) -> torch.Tensor:
    """Standard normal values ``shape``, for noise; bits differ between device types.

    Of a ``SecureKey`` float64, drawn on the CPU (``secure_normal``): added to an fp32 sum before
    anything is rounded, every fp32 result is possible. Otherwise fp32, drawn on the device by a
    Philox that 128 bits of the key place: numpy's on the CPU (``box_muller``), where torch's
    generator keeps 32 bits of its seed (of 65,000 draws two are expected to be the same, and noise
    could be found by trying all seeds), torch's on a GPU (``place``).
    """
    import torch

    if isinstance(key, SecureKey):
        drawn = torch.from_numpy(secure_normal(key, shape))
        on_gpu = torch.device(device).type == "cuda"
        return drawn.pin_memory().to(device, non_blocking=True) if on_gpu else drawn.to(device)
    if torch.device(device).type == "cpu":
        return torch.from_numpy(box_muller(key, math.prod(shape))).view(shape)
    generator = place(torch.Generator(device=device), key)
    return torch.randn(shape, generator=generator, device=device, dtype=torch.float32)


def place(generator: torch.Generator, key: Key) -> torch.Generator:
    """Set a GPU's Philox to the place of a key: a stream of its own, and a start within it.

    The seed takes 64 bits, the offset 61 more (a multiple of 4, as torch asks, below 2^63: nothing
    that is drawn passes the end of its stream). Draws share bits only where seeds are equal and
    offsets near.
    """
    generator.manual_seed(int.from_bytes(key[:8], "little"))
    generator.set_offset(int.from_bytes(key[8:16], "little") >> 3 << 2)
    return generator


def box_muller(key: Key, count: int) -> np.ndarray:
    """Standard normal fp32 values ``[count]`` from the bits of a Philox keyed by ``key``.

    Pairs ``radius (cos, sin)(angle)``, a third of the time of numpy's ziggurat: 32 bits make a
    radius of up to 6.8, 32 bits its angle. The cosines come first, then the sines.
    """
    pairs = -(-count // 2)
    words = _philox(key).random_raw(pairs).view(np.uint32).reshape(2, pairs)
    radius = words[0].astype(np.float32)
    radius += 0.5  # of (0, 2^32]: no infinity
    radius *= 2.0**-32
    np.log(radius, out=radius)
    radius *= -2.0
    np.sqrt(radius, out=radius)
    angle = words[1].view(np.int32).astype(np.float32)
    angle *= math.pi * 2.0**-31  # of [-pi, pi]
    drawn = np.empty((2, pairs), np.float32)
    np.multiply(radius, np.cos(angle), out=drawn[0])
    np.multiply(radius, np.sin(angle, out=angle), out=drawn[1])
    return drawn.reshape(-1)[:count]


def secure_normal(key: Key, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Standard normal float64 values ``shape``: each is the sum of four, over two.

    One normal value in floating point lies on a grid that its generator makes, and what is left of
    the grid after a sum tells the summand (Mironov 2012). A sum of four can be had in so many ways
    that finding one is infeasible (Holohan and Braghin 2021, arXiv 2107.10138, section 5); Opacus'
    secure mode does the same. The bits are SHAKE-256 of the key, so a replayed round draws the same
    noise; the four are cosines and sines of two Box-Muller pairs of their own.
    """
    count = math.prod(shape)
    words = np.frombuffer(hashlib.shake_256(key).digest(32 * count), dtype="<u8") >> np.uint64(11)
    uniform = words.astype(np.float64).reshape(4, count)
    radius = np.sqrt(-2.0 * np.log((uniform[:2] + 1.0) * 2.0**-53))  # of (0, 1]: no infinity
    angle = uniform[2:] * (2.0 * math.pi * 2.0**-53)
    total = (radius * (np.cos(angle) + np.sin(angle))).sum(axis=0)
    return np.asarray(0.5 * total).reshape(shape)


def mixed(words: torch.Tensor, counters: torch.Tensor) -> torch.Tensor:
    """64 random bits for each word and counter, int64 as they broadcast; the same on any device.

    The ``counters``-th output of SplitMix64 (Steele, Lea and Flood 2014) started at the word: whole
    numbers alone, so no order, shape or device changes a bit. Not for noise: see ``box_muller``.
    """
    bits = words + counters * -0x61C8864680B583EB  # 2^64 over the golden ratio; int64 wraps around
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        bits = (bits ^ (bits >> shift & ((1 << 64 - shift) - 1))) * factor
    return bits ^ (bits >> 31 & ((1 << 33) - 1))


def torch_seed(key: Key) -> int:
    """A 63-bit seed for ``torch.Generator.manual_seed`` (on the CPU 32 bits of it are used)."""
    return int.from_bytes(key[:8], "little") >> 1


def normal(key: Key, shape: tuple[int, ...], device: str | torch.device = "cpu") -> torch.Tensor:
    """Standard normal fp32 values ``shape``; drawn on ``device`` (bits differ between devices)."""
    import torch

    generator = torch.Generator(device=device).manual_seed(torch_seed(key))
    return torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
