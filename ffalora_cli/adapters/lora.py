"""LoRA: ``dW = B A`` with A ``[rank, d_in]`` (random) and B ``[d_out, rank]`` (zero)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ffalora_cli import keys
from ffalora_cli.adapters.base import Form, Shape, linear
from ffalora_cli.config.schema import AdapterConfig
from ffalora_cli.types import Site, Tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ffalora_cli.adapters.context import Factor
    from ffalora_cli.adapters.layout import Layout


class LoRA(Form):
    """The low-rank pair of Hu et al. 2021 (arXiv 2106.09685)."""

    name = "lora"
    input_factor = "lora_a"
    pair = ("lora_b", "lora_a")
    peft_names: ClassVar = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight"}

    def factors(self, site: Site, rank: int) -> dict[str, Shape]:
        """A and B."""
        return {"lora_a": (rank, site.d_in), "lora_b": (site.d_out, rank)}

    def start(self, site: Site, rank: int, init: str, seed: int) -> Tensors:
        """A from its seed, B zero.

        ``kaiming``: uniform in ``±1/sqrt(d_in)`` (Kaiming uniform with a = sqrt(5), as peft).
        ``orthogonal``: orthonormal rows scaled to the same expected Frobenius norm, so that the
        two can be compared at one learning rate (``E||A||_F^2 = rank / 3``).
        """
        import torch

        key = keys.torch_seed(keys.derive(seed, "lora_a", site.name))
        generator = torch.Generator().manual_seed(key)
        if init == "orthogonal":
            gaussian = torch.randn(site.d_in, rank, generator=generator, dtype=torch.float64)
            a = torch.linalg.qr(gaussian).Q.t().float().contiguous() / math.sqrt(3.0)
        else:
            bound = 1.0 / math.sqrt(site.d_in)
            a = (torch.rand(rank, site.d_in, generator=generator) * 2 - 1) * bound
        return {"lora_a": a, "lora_b": torch.zeros(site.d_out, rank)}

    def delta(
        self,
        x: Tensor,
        factors: Mapping[str, Factor],
        layout: Layout,
        scale: float,
        y: Tensor | None = None,
    ) -> Tensor:
        """``scale * (x A^T) B^T``."""
        from ffalora_cli.adapters.context import times

        inner = times(x, factors["lora_a"], layout)  # [rows, rank]
        return times(inner, factors["lora_b"], layout, y, scale)

    def dense(self, factors: Mapping[str, Tensor], scale: float) -> Tensor:
        """``scale * B A``."""
        return scale * (factors["lora_b"] @ factors["lora_a"])

    def module(self, factors: Mapping[str, nn.Parameter]) -> nn.Module:
        """A, then B."""
        from torch import nn

        return nn.Sequential(linear(factors["lora_a"]), linear(factors["lora_b"]))

    def peft_config(self, adapter: AdapterConfig, settings: Mapping[str, Any]) -> Any:
        """``peft.LoraConfig``; its product is ``lora_alpha / r * B A``, as here."""
        from peft import LoraConfig

        alpha = adapter.alpha
        whole: Any = int(alpha) if float(alpha).is_integer() else alpha
        return LoraConfig(
            r=adapter.rank, lora_alpha=whole, lora_dropout=adapter.dropout, **settings
        )


FORM = LoRA()
