"""Client-level mechanism: clip each upload; central: sum, noise once, a fixed denominator.

One client changes the sum by at most ``max_grad_norm``, whatever it sends. Weights are uniform and
the denominator is the *expected* cohort, both known without looking at the uploads; an empty cohort
is a noise-only round. McMahan et al. 2018 (arXiv 1710.06963), with the analytic accounting of the
Gaussian mechanism instead of a bound per round. With local noise each client adds it to its own
clipped upload (``federation.server.release``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ffalora_cli.keys import Key, derive, standard_normal

if TYPE_CHECKING:
    import torch

    from ffalora_cli.types import Stack, Tensors


def clip_updates(updates: Stack, max_grad_norm: float) -> tuple[Stack, torch.Tensor]:
    """Clip each client's update with one norm over all its tensors.

    Args:
        updates: after minus before, ``[clients, ...]`` by name, everything that is uploaded.
        max_grad_norm: C > 0.

    Returns:
        The clipped updates, fp32; and the norms before clipping ``[clients]`` fp64, not finite
        where an upload was: such a client counts as zero.
    """
    import torch

    squares = [
        torch.linalg.vector_norm(value.flatten(1), dim=1, dtype=torch.float64).square()
        for value in updates.values()
    ]
    norms = torch.stack(squares).sum(0).sqrt()  # [clients]; fp64, so that 1e30 does not overflow
    finite = torch.isfinite(norms)
    factors = (max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
    clipped: Stack = {}
    for name, value in updates.items():
        extent = (-1, *(1 for _ in value.shape[1:]))
        scaled = (value.double() * factors.view(extent)).float()
        clipped[name] = torch.where(finite.view(extent), scaled, torch.zeros_like(scaled))
    return clipped, norms


def private_mean(
    total: Tensors,
    noise_multiplier: float,
    max_grad_norm: float,
    expected_cohort: float,
    secret: Key,
    round: int,
) -> Tensors:
    """The released mean update of a round.

    Args:
        total: sum of the clipped updates by name (no client axis); zeros for an empty cohort.
        noise_multiplier: noise sd on the sum in units of the clip.
        max_grad_norm: C.
        expected_cohort: rate times number of clients, never the realised count.
        secret: from ``secret.run_secret``.
        round: from 1.

    Returns:
        ``(total + noise) / expected_cohort`` by name, fp32; noise keyed by (round, tensor).
    """
    sd = noise_multiplier * max_grad_norm
    released = {}
    for name, value in total.items():
        key = derive(secret, "server noise", round, name)
        noise = standard_normal(tuple(value.shape), key, value.device)
        released[name] = (value.float() + sd * noise).float() / expected_cohort
    return released
