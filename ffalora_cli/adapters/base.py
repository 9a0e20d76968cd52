"""Declares what an adapter form says: which small tensors change a frozen layer, and how.

A form is one file with one subclass of ``Form`` whose instance is named ``FORM``. It says
``W' = W + scale * dW(factors)``: the shapes of the factors, their start, ``dW x`` on rows, ``dW``
itself. Everything else (stacks of clients, clipping, payloads, files) knows factors by name and
shape alone. A factor's tensor is named ``<site>.<factor>``. What a form declares is readable
without torch, which is imported where tensors are made.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ffalora_cli.config.schema import AdapterConfig
from ffalora_cli.types import Site, Tensors, TensorSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ffalora_cli.adapters.context import Factor
    from ffalora_cli.adapters.layout import Layout

Shape = tuple[int, ...]
Value = TypeVar("Value")


class Form(ABC):
    """How a frozen linear layer is changed.

    Attributes:
        name: file and config name.
        input_factor: the factor that is applied to the layer's input.
        pair: factors (left, right) where ``dW = left @ right``; empty where it is something else.
        no_peft: why peft has no such adapter, an export's refusal; empty where it has one.
        peft_names: factor -> what follows the site in the names of peft's adapter file.
    """

    name: ClassVar[str]
    input_factor: ClassVar[str]
    pair: ClassVar[tuple[str, str] | tuple[()]] = ()
    no_peft: ClassVar[str] = ""
    peft_names: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def factors(self, site: Site, rank: int) -> dict[str, Shape]:
        """Shape of every factor, the one next to the input first."""

    @abstractmethod
    def start(self, site: Site, rank: int, init: str, seed: int) -> Tensors:
        """Every factor at round 0, with ``dW = 0``; draws are keyed by seed, factor and site.

        Args:
            site: the layer.
            rank: of the factors.
            init: ``adapter.init``.
            seed: ``adapter.seed``.
        """

    @abstractmethod
    def delta(
        self,
        x: Tensor,
        factors: Mapping[str, Factor],
        layout: Layout,
        scale: float,
        y: Tensor | None = None,
    ) -> Tensor:
        """``scale * dW x`` on rows, or ``y + scale * dW x``.

        Args:
            x: rows ``[rows, d_in]``.
            factors: each common ``[m, k]``, one copy an example ``[examples, m, k]``, or with ghost
                norms; ``adapters.context.times`` multiplies by any of them.
            layout: which rows are whose.
            scale: alpha / rank.
            y: rows ``[rows, d_out]``, the form's to overwrite: what it needs of them, it takes
                before ``times`` writes there.
        """

    @abstractmethod
    def dense(self, factors: Mapping[str, Tensor], scale: float) -> Tensor:
        """``scale * dW``, ``[d_out, d_in]`` in the factors' dtype."""

    @abstractmethod
    def module(self, factors: Mapping[str, nn.Parameter]) -> nn.Module:
        """``x -> dW x`` of ordinary layers that Opacus knows, around these parameters."""

    def peft_config(self, adapter: AdapterConfig, settings: Mapping[str, Any]) -> Any:
        """The configuration that peft has for it; ``settings`` are those of every form."""
        raise NotImplementedError(self.no_peft)

    def specs(self, sites: Sequence[Site], rank: int) -> list[TensorSpec]:
        """Every factor of every site, site by site."""
        return [
            TensorSpec(f"{site.name}.{factor}", shape, "adapter", site.name, factor)
            for site in sites
            for factor, shape in self.factors(site, rank).items()
        ]

    def initial(self, sites: Sequence[Site], rank: int, init: str, seed: int) -> Tensors:
        """``start`` of every site, by tensor name."""
        return {
            f"{site.name}.{factor}": value
            for site in sites
            for factor, value in self.start(site, rank, init, seed).items()
        }

    def of_site(self, values: Mapping[str, Value], site: Site) -> dict[str, Value]:
        """One site's factors, picked out of tensors by name."""
        return {factor: values[f"{site.name}.{factor}"] for factor in self.factors(site, 1)}


def linear(weight: nn.Parameter) -> nn.Linear:
    """A layer without bias around a parameter ``[m, k]``."""
    from torch import nn

    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = weight
    return layer
