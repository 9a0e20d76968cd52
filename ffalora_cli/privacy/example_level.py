"""Example-level mechanism: clip factors, keyed noise, and the secret the keys come from.

One step of a client releases ``(sum of clipped gradients + noise) / expected batch``. The noise is
added once, to the sum, with sd = noise_multiplier * max_grad_norm, to an empty sum too. All fp32.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ffalora_cli.config.errors import ConfigError, choose
from ffalora_cli.keys import Key, derive, fill_normal

if TYPE_CHECKING:
    import torch

    from ffalora_cli.types import Stack

SECRET_BYTES = 32


def clip_factors(square_norms: torch.Tensor, max_grad_norm: float) -> torch.Tensor:
    """Factor of each example: ``min(1, C / (norm + 1e-6))``, as Opacus.

    Args:
        square_norms: squared norms over all covered tensors together ``[examples]``.
        max_grad_norm: C > 0.

    Returns:
        ``[examples]`` fp32; 0 where the norm is not finite. The caller replaces those rows by zeros
        (``torch.where``): zero times NaN is NaN.
    """
    import torch

    norms = square_norms.float().sqrt()
    factors = (max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
    return torch.where(torch.isfinite(norms), factors, torch.zeros_like(factors))


def noise_stack(
    shapes: Mapping[str, tuple[int, ...]],
    clients: Sequence[int],
    sd: torch.Tensor,
    secret: Key,
    round: int,
    step: int,
    device: str | torch.device = "cpu",
) -> Stack:
    """Gaussian noise of one local step for every client and tensor.

    Each tensor of each client has its own key (secret, client, round, step, tensor), so order, size
    and chunking of the cohort do not matter and no two draws share bits.

    Args:
        shapes: shape of one client's tensor, by name (no client axis).
        clients: ids, in stack order.
        sd: of each client's noise ``[clients]``: noise_multiplier * max_grad_norm.
        secret: from ``run_secret``.
        round: from 1.
        step: local step within the round.
        device: where to draw; bits differ between device types.

    Returns:
        ``[clients, *shape]`` fp32 by name.
    """
    import torch

    stack: Stack = {}
    for name, shape in shapes.items():
        drawn = torch.empty((len(clients), *shape), device=device, dtype=torch.float32)
        for row, client in zip(drawn, clients, strict=True):
            key = derive(secret, "noise", int(client), round, step, name)
            fill_normal(row, key)
        extent = (-1, *(1 for _ in shape))
        stack[name] = drawn.mul_(sd.to(device=device, dtype=torch.float32).view(extent))
    return stack


def run_secret(noise: str, seed: int, signature: str, path: Path | None = None) -> Key:
    """The key of all privacy draws (sampling, noise) of one run.

    Args:
        noise: ``reproducible`` (hash of seed and config signature: two configs never share noise,
            but whoever knows both can subtract it) or ``secure`` (operating-system entropy).
        seed: of the run.
        signature: of the run's config.
        path: file that keeps a secure secret, readable by its owner only, reread on resume; None
            keeps it in memory, so that the run cannot be resumed.

    Returns:
        32 bytes.

    Raises:
        ConfigError: for an unknown mode or a damaged secret file.
    """
    if noise == "reproducible":
        return derive(seed, "run secret", signature)
    if noise != "secure":
        raise choose("privacy.noise", noise, ("reproducible", "secure"))
    if path is None:
        return os.urandom(SECRET_BYTES)
    if path.exists():
        secret = path.read_bytes()
        if len(secret) != SECRET_BYTES:
            raise ConfigError(f"{path}: the run secret is damaged; start a new run")
        return secret
    secret = os.urandom(SECRET_BYTES)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(secret)
        stream.flush()
        os.fsync(stream.fileno())
    return secret
