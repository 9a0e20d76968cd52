"""Example-level mechanism: noise keyed by the run secret (``secret``).

One step of a client releases ``(sum of clipped gradients + noise) / expected batch``. The noise is
added once, to the sum, in units of max_grad_norm, to an empty sum too. Sums are fp32. How examples
are clipped stands in ``clipping``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ffalora_cli.keys import Key, SecureKey, derive, standard_normal

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ffalora_cli.types import Floats

SEAMS = ("step_noise",)
"""What an audit may replace; whoever calls it looks it up in this module."""


def step_noise(
    layout: Mapping[str, tuple[int, ...]],
    clients: Sequence[int],
    sd: Floats,
    secret: Key,
    round: int,
    step: int,
    device: str | torch.device = "cpu",
    extents: Mapping[str, np.ndarray] | None = None,
) -> torch.Tensor:
    """Gaussian noise of one local step: every client's tensors side by side, one draw a client.

    A client's draw has its own key (secret, client, round, step), so order, size and chunking of
    the cohort do not matter and no two draws share bits; its values go to the tensors in turn.

    Args:
        layout: shape of one client's tensor, by name, in the order of the columns.
        clients: ids, in stack order.
        sd: of each client's noise ``[clients]``: ``plan.added_noise`` * max_grad_norm.
        secret: from ``secret.run_secret``.
        round: from 1.
        step: local step within the round.
        device: where to draw; bits differ between device types.
        extents: where clients have different ranks, how much of each tensor's axes is a client's
            own, int ``[clients, axes]`` by name: the rest gets no noise, and what it is a client's
            own noise does not depend on.

    Returns:
        ``[clients, P]``; fp32, of a ``SecureKey`` float64, to be added as it is.
    """
    import torch

    dtype = torch.float64 if isinstance(secret, SecureKey) else torch.float32
    size = sum(math.prod(shape) for shape in layout.values())
    drawn = torch.zeros((len(clients), size), device=device, dtype=dtype)
    for slot, (client, scale) in enumerate(zip(clients, sd.tolist(), strict=True)):
        key = derive(secret, "noise", int(client), round, step)
        own = [drawn[slot]] if extents is None else list(_own(drawn[slot], layout, extents, slot))
        counts = [part.numel() for part in own]
        values = standard_normal((sum(counts),), key, device)
        for part, of_part in zip(own, values.split(counts), strict=True):
            # A number, not a tensor: nothing to copy to a GPU in the middle of a step.
            torch.mul(of_part.view(part.shape), scale, out=part)
    return drawn


def _own(
    row: torch.Tensor,
    layout: Mapping[str, tuple[int, ...]],
    extents: Mapping[str, np.ndarray],
    slot: int,
) -> Iterator[torch.Tensor]:
    """Views of the corners of a client's tensors that are its own, in its row ``[P]``."""
    columns = row.split([math.prod(shape) for shape in layout.values()])
    for (name, shape), part in zip(layout.items(), columns, strict=True):
        own = extents[name][slot].tolist() if name in extents else shape
        yield part.view(shape)[tuple(slice(extent) for extent in own)]
