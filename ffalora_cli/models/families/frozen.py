"""Runs linear layers whose weight never learns: no gradient for it, the fastest kernel there is.

On a CPU torch's own fp32 product goes to MKL, which on processors of other makers runs an older
instruction set (LOG.md, 2026-11-24: 105 against 240 GFLOP/s on one core). oneDNN, which comes
with torch and which it uses for bf16, does not look at the maker. Same sums in fp32, other order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class FrozenLinear(nn.Linear):
    """An ``nn.Linear`` around given parameters; differentiable in its input alone."""

    @staticmethod
    def around(layer: nn.Linear) -> FrozenLinear:
        """The same layer, sharing its parameters."""
        frozen = FrozenLinear.__new__(FrozenLinear)
        frozen.__dict__.update(layer.__dict__)
        return frozen

    def forward(self, x: Tensor) -> Tensor:  # [..., d_in] -> [..., d_out]
        """``x W^T + b``."""
        if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():
            return super().forward(x)
        y: Tensor = _OneDnn.apply(x, self.weight, self.bias)
        return y


class _OneDnn(torch.autograd.Function):
    """``x W^T + b`` and ``dy W`` by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight  # frozen: nothing can change it before the backward pass
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        return product(grads[0], ctx.weight.t()), None, None


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b`` on a CPU, x ``[..., k]``, weight ``[m, k]`` (any strides)."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def freeze_linears(model: nn.Module) -> None:
    """Swap every plain linear layer of ``model`` for a ``FrozenLinear`` with its parameters."""
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, FrozenLinear.around(module))
