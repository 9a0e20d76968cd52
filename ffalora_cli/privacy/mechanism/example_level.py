"""Example-level mechanism: noise keyed by the run secret (``secret``).

One step of a client releases ``(sum of clipped gradients + noise) / expected batch``. The noise is
added once, to the sum, in units of max_grad_norm, to an empty sum too. Sums are fp32. How examples
are clipped stands in ``clipping``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ffalora_cli.keys import Key, SecureKey, derive, standard_normal

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ffalora_cli.types import Stack

SEAMS = ("noise_stack",)
"""What an audit may replace; whoever calls it looks it up in this module."""


def noise_stack(
    shapes: Mapping[str, tuple[int, ...]],
    clients: Sequence[int],
    sd: torch.Tensor,
    secret: Key,
    round: int,
    step: int,
    device: str | torch.device = "cpu",
    extents: Mapping[str, np.ndarray] | None = None,
) -> Stack:
    """Gaussian noise of one local step for every client and tensor.

    Each tensor of each client has its own key (secret, client, round, step, tensor), so order, size
    and chunking of the cohort do not matter and no two draws share bits.

    Args:
        shapes: shape of one client's tensor, by name (no client axis).
        clients: ids, in stack order.
        sd: of each client's noise ``[clients]``: ``plan.added_noise`` * max_grad_norm.
        secret: from ``secret.run_secret``.
        round: from 1.
        step: local step within the round.
        device: where to draw; bits differ between device types.
        extents: where clients have different ranks, how much of each tensor's axes is a client's
            own, int ``[clients, axes]`` by name: the rest gets no noise.

    Returns:
        ``[clients, *shape]`` by name; fp32, of a ``SecureKey`` float64, to be added as it is.
    """
    import torch

    stack: Stack = {}
    extents = extents or {}
    for name, shape in shapes.items():
        dtype = torch.float64 if isinstance(secret, SecureKey) else torch.float32
        drawn = torch.empty((len(clients), *shape), device=device, dtype=dtype)
        if name in extents:
            drawn.zero_()
        for slot, client in enumerate(clients):
            key = derive(secret, "noise", int(client), round, step, name)
            own = shape if name not in extents else tuple(extents[name][slot].tolist())
            corner: tuple[Any, ...] = (slot, *(slice(extent) for extent in own))
            drawn[corner] = standard_normal(own, key, device)
        extent = (-1, *(1 for _ in shape))
        stack[name] = drawn.mul_(sd.to(drawn).view(extent))
    return stack
