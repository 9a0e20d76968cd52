"""Replaces the layers of the head by ones that read weight and bias from the context."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ffalora_cli.adapters.context import Context, times
from ffalora_cli.adapters.layout import Layout
from ffalora_cli.adapters.sites import replace


class HeadLinear(nn.Module):
    """A head layer whose weight and bias come from the context."""

    def __init__(self, base: nn.Linear, name: str, context: Context) -> None:
        super().__init__()
        self.base = base
        self.name = name
        self.context = context

    def forward(self, x: Tensor) -> Tensor:  # [examples, ..., d_in] -> [examples, ..., d_out]
        """``x W^T + b``."""
        weight = self.context.values.get(f"{self.name}.weight")
        if weight is None:
            return self.base(x)
        rows = x.reshape(-1, x.shape[-1])
        layout = self.context.layout or Layout.padded(x.shape[0], len(rows) // x.shape[0])
        y = times(rows, weight, layout)
        bias = self.context.values.get(f"{self.name}.bias")
        if isinstance(bias, Tensor):
            bias = bias.to(x.dtype)
            y = y + bias if bias.dim() == 1 else _plus(y, bias, layout)
        return y.reshape(*x.shape[:-1], -1)


def _plus(y: Tensor, bias: Tensor, layout: Layout) -> Tensor:
    """Rows ``[rows, d]`` and the bias of each one's example ``[examples, d]``."""
    blocks = zip(layout.blocks(y), bias.split(layout.counts), strict=True)
    return layout.join([block + own[:, None] for block, own in blocks])


def install_head(model: nn.Module, layers: Sequence[str], context: Context) -> None:
    """Swap head layers for ``HeadLinear``; context names are ``head.<layer>.weight|bias``."""
    for name in layers:
        replace(model, name, HeadLinear(model.get_submodule(name), f"head.{name}", context))
