"""Applies adapter dropout with masks keyed by (client, round, step, row, site)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ffalora_cli import keys
from ffalora_cli.engine.job import LocalJob


def keyed_dropout(
    job: LocalJob, step: int, slots: np.ndarray, rows: np.ndarray
) -> Callable[[str, Tensor], Tensor] | None:
    """A function (site, x ``[examples, ..., d_in]``) -> x with dropped and rescaled entries.

    A row's mask is drawn token by token from its own generator, so it depends neither on the
    padding nor on which other rows share the micro-batch. None where nothing is dropped.
    """
    if job.dropout == 0:
        return None
    row_keys = [
        keys.derive(job.dropout_key, "dropout", int(job.clients[slot]), job.round, step, int(row))
        for slot, row in zip(slots, rows, strict=True)
    ]
    keep = 1.0 - job.dropout

    def apply(site: str, x: Tensor) -> Tensor:
        masks = torch.empty(len(row_keys), x.numel() // len(row_keys), dtype=torch.float32)
        for i, key in enumerate(row_keys):
            generator = torch.Generator().manual_seed(keys.torch_seed(keys.derive(key, site)))
            masks[i].bernoulli_(keep, generator=generator)
        return x * (masks.view(x.shape).to(x) / keep)

    return apply
