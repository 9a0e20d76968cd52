"""Adapter sites: linear layers of an unmodified model that read their factors from a context.

``W' = W + scale * B @ A`` with A ``[rank, d_in]`` (random) and B ``[d_out, rank]`` (zero). A
factor is either common to the micro-batch (its plain shape) or one copy an example (a leading
example axis); the gradient of the summed loss with respect to the copies *is* the per-example
gradient, exactly and without hooks (design section 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ffalora_cli import keys
from ffalora_cli.config.errors import ConfigError, nearest
from ffalora_cli.types import Site, Tensors, TensorSpec


class Context:
    """Factors of the forward pass under way; one object shared by all sites of a model."""

    def __init__(self) -> None:
        self.values: Tensors = {}
        self.dropout: Callable[[str, Tensor], Tensor] | None = None


class _RowPerExample(torch.Tensor):
    """Output of a site called with one common row block but one factor copy an example.

    DeBERTa projects its relative-position table once (batch 1) and then repeats it for every
    example. With per-example factors the projection already has a row block an example, in the
    order that the repeat would give, so ``repeat`` has nothing left to do.
    """

    def repeat(self, *sizes: int) -> Tensor:  # type: ignore[override]
        """The plain tensor: already one block an example."""
        return self.as_subclass(torch.Tensor)


class AdaptedLinear(nn.Module):
    """A frozen linear layer plus its low-rank pair, common or one copy an example."""

    def __init__(self, base: nn.Linear, site: str, scale: float, context: Context) -> None:
        super().__init__()
        self.base = base
        self.site = site
        self.scale = scale
        self.context = context

    def forward(self, x: Tensor) -> Tensor:  # [examples, ..., d_in] -> [examples, ..., d_out]
        """Base output plus ``scale * (x A^T) B^T``."""
        y = self.base(x)
        a = self.context.values.get(f"{self.site}.lora_a")
        b = self.context.values.get(f"{self.site}.lora_b")
        if a is None or b is None:
            return y
        copies = a.shape[0] if a.dim() == 3 else b.shape[0] if b.dim() == 3 else x.shape[0]
        common_rows = x.shape[0] == 1 and copies > 1
        if common_rows:
            x = x.expand(copies, *x.shape[1:])
        if self.context.dropout is not None:
            x = self.context.dropout(self.site, x)
        rows = x.reshape(x.shape[0], -1, x.shape[-1])  # [examples, rows, d_in]
        h = times_transposed(rows, a.to(x.dtype))  # [examples, rows, rank]
        delta = times_transposed(h, b.to(x.dtype)) * self.scale  # [examples, rows, d_out]
        y = y + delta.reshape(*x.shape[:-1], -1)
        return y.as_subclass(_RowPerExample) if common_rows else y


class HeadLinear(nn.Module):
    """A head layer whose weight and bias come from the context (common or one copy an example)."""

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
        rows = x.reshape(x.shape[0], -1, x.shape[-1])
        y = times_transposed(rows, weight.to(x.dtype))
        bias = self.context.values.get(f"{self.name}.bias")
        if bias is not None:
            bias = bias.to(x.dtype)
            y = y + (bias[:, None, :] if bias.dim() == 2 else bias)
        return y.reshape(*x.shape[:-1], -1)


def times_transposed(x: Tensor, w: Tensor) -> Tensor:
    """``x @ w^T`` for ``[examples, rows, k]`` and w ``[m, k]`` (common) or ``[examples, m, k]``."""
    return x @ w.t() if w.dim() == 2 else torch.bmm(x, w.transpose(1, 2))


def find_sites(model: nn.Module, suffixes: Sequence[str]) -> list[Site]:
    """Linear layers of the base model whose path ends with one of the suffixes, in model order.

    A suffix may list alternatives, ``a|b``: names of one role in different families.

    Raises:
        ConfigError: a suffix matches nothing.
    """
    prefix = model.base_model_prefix + "."
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(prefix)
    }
    matched = {
        suffix: [n for n in linears if n.endswith(tuple("." + s for s in suffix.split("|")))]
        for suffix in suffixes
    }
    for suffix, found in matched.items():
        if not found:
            hint = nearest(suffix, {name.rsplit(".", 1)[-1] for name in linears})
            raise ConfigError(
                f"model.targets: {suffix!r} names no linear layer of this model"
                + (f"; did you mean {hint!r}?" if hint else "")
            )
    chosen = {name for found in matched.values() for name in found}
    return [
        Site(name, module.in_features, module.out_features)
        for name, module in linears.items()
        if name in chosen
    ]


def install(model: nn.Module, sites: Sequence[Site], scale: float, context: Context) -> None:
    """Swap every site of ``model`` for an ``AdaptedLinear`` around the original layer."""
    for site in sites:
        base = model.get_submodule(site.name)
        _replace(model, site.name, AdaptedLinear(base, site.name, scale, context))


def install_head(model: nn.Module, layers: dict[str, nn.Linear], context: Context) -> None:
    """Swap head layers for ``HeadLinear``; context names are ``head.<layer>.weight|bias``."""
    for name, base in layers.items():
        _replace(model, name, HeadLinear(base, f"head.{name}", context))


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def adapter_specs(sites: Sequence[Site], rank: int) -> list[TensorSpec]:
    """Both factors of every site, A before B."""
    specs = []
    for s in sites:
        specs.append(TensorSpec(f"{s.name}.lora_a", (rank, s.d_in), "adapter", s.name, "lora_a"))
        specs.append(TensorSpec(f"{s.name}.lora_b", (s.d_out, rank), "adapter", s.name, "lora_b"))
    return specs


def init_adapter(sites: Sequence[Site], rank: int, init: str, seed: int) -> Tensors:
    """A from its seed, one draw a site keyed by the site's name; B zero.

    ``kaiming``: uniform in ``±1/sqrt(d_in)`` (Kaiming uniform with a = sqrt(5), PEFT's default).
    ``orthogonal``: orthonormal rows scaled to the same expected Frobenius norm, so that the two
    can be compared at one learning rate (``E||A||_F^2 = rank / 3``).
    """
    tensors: Tensors = {}
    for site in sites:
        generator = torch.Generator().manual_seed(
            keys.torch_seed(keys.derive(seed, "lora_a", site.name))
        )
        if init == "orthogonal":
            gaussian = torch.randn(site.d_in, rank, generator=generator, dtype=torch.float64)
            a = torch.linalg.qr(gaussian).Q.t().float().contiguous() / math.sqrt(3.0)
        else:
            bound = 1.0 / math.sqrt(site.d_in)
            a = (torch.rand(rank, site.d_in, generator=generator) * 2 - 1) * bound
        tensors[f"{site.name}.lora_a"] = a  # [rank, d_in]
        tensors[f"{site.name}.lora_b"] = torch.zeros(site.d_out, rank)
    return tensors
