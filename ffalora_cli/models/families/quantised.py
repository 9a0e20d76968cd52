"""Frozen linear layers whose weights are kept in 8 or 4 bits.

A product has its weight in fp32 for as long as it lasts, forward and again backward, so outputs and
gradients are those of the model with the rounded weights, exactly; activations are not rounded.
``nf4`` is bitsandbytes' (Dettmers et al. 2023: blocks of 64, levels of a normal distribution);
``int8`` is a scale for each output.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from ffalora_cli.adapters.sites import replace, weight_of
from ffalora_cli.config.errors import ConfigError

_BLOCK = 64  # weights that share a scale


def check_package(precision: str) -> None:
    """Refuse where the package that packs weights is missing."""
    if precision == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "engine.precision=nf4 needs the package bitsandbytes; run: pip install "
            "'ffalora[quant]', or set engine.precision=int8, which needs none"
        )


def rounded_layers(model: Any) -> list[tuple[str, Any]]:
    """Linear layers of the base model of transformers by name: its head is not among them."""
    from transformers.pytorch_utils import Conv1D

    prefix = f"{model.base_model_prefix}."
    return [
        (name, module)
        for name, module in model.named_modules()
        if name.startswith(prefix) and type(module) in (nn.Linear, Conv1D)
    ]


def quantise(model: nn.Module, precision: str) -> None:
    """Swap them for layers of few bits; no parameter changes.

    Args:
        model: of transformers.
        precision: ``int8`` or ``nf4``.
    """
    for name, module in rounded_layers(model):
        replace(model, name, QuantisedLinear(module, precision))


class QuantisedLinear(nn.Module):
    """A linear layer around rounded weights; differentiable in its input alone."""

    codes: Tensor
    state: Any

    def __init__(self, layer: nn.Linear, precision: str) -> None:
        super().__init__()
        weight = weight_of(layer).float().contiguous()  # [d_out, d_in]
        self.shape, self.state = weight.shape, None
        if precision == "int8":
            scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-30) / 127  # [d_out, 1]
            codes = (weight / scale).round().to(torch.int8)
            self.register_buffer("scale", scale)
        else:
            from bitsandbytes.functional import quantize_4bit

            # One block a row: on a CPU blocks that cross rows come back wrong (0.50).
            blocks = nn.functional.pad(weight.flatten(), (0, -weight.numel() % _BLOCK))
            blocks = blocks.view(-1, _BLOCK)
            codes, self.state = quantize_4bit(blocks, blocksize=_BLOCK, quant_type="nf4")
        self.register_buffer("codes", codes)
        self.bias = layer.bias

    def dense(self) -> Tensor:
        """The rounded weight, fp32 ``[d_out, d_in]``."""
        if self.state is None:
            return self.codes * self.get_buffer("scale")
        from bitsandbytes.functional import dequantize_4bit

        self.state.to(self.codes.device)
        blocks: Tensor = dequantize_4bit(self.codes, self.state)
        return blocks.flatten()[: self.shape.numel()].view(self.shape)

    def forward(self, x: Tensor) -> Tensor:  # [..., d_in] -> [..., d_out]
        """``x W^T + b``."""
        y: Tensor = _Product.apply(x, self)
        return y


class _Product(torch.autograd.Function):
    """``x W^T + b`` and ``dy W``; the weight is unpacked for each and kept for neither."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantisedLinear) -> Tensor:
        ctx.layer = layer
        return nn.functional.linear(x, layer.dense(), layer.bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ ctx.layer.dense(), None
