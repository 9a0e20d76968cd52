"""Adapter sites: linear layers of an unmodified model that read their factors from a context.

What the factors do to a layer is its form's to say (``adapters.base``). A factor is either common
to the micro-batch (its plain shape) or one copy an example (a leading example axis); the gradient
of the summed loss with respect to the copies *is* the per-example gradient, exactly and without
hooks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ffalora_cli.adapters.context import Context, Factor, _copies, _RowPerExample
from ffalora_cli.adapters.layout import Layout
from ffalora_cli.config.errors import ConfigError, listed, nearest
from ffalora_cli.types import Site

if TYPE_CHECKING:
    from ffalora_cli.adapters.base import Form

FAMILIES = (
    "bert", "roberta", "xlm-roberta", "electra", "distilbert", "deberta-v2", "modernbert",
    "albert", "vit", "deit", "dinov2", "swin",
)  # fmt: skip
"""Families of models, as ``config.json`` spells them, that ``configs/model`` has targets for."""
DECODERS = (
    "llama", "mistral", "qwen2", "qwen3", "gemma2", "olmo2", "phi3", "phi", "opt", "gpt2",
    "gpt_neox",
)  # fmt: skip
"""The same of language models, which read from left to right."""

_ATTENTION = re.compile(r"(?i)(^|[._])(w?q(kv)?|w?v|query|value|q_\w+|v_\w+|in_proj)(_key_value)?$")
"""How layers that ask, and those whose values are read, end in most families."""
_SHOWN = 40  # characters of a pattern in a message


class AdaptedLinear(nn.Module):
    """A frozen linear layer and what its form adds."""

    def __init__(
        self, base: nn.Module, site: Site, form: Form, scale: float, context: Context
    ) -> None:
        super().__init__()
        self.base = base
        self.site = site.name
        self.form = form
        self.scale = scale
        self.context = context
        self._names = {factor: f"{site.name}.{factor}" for factor in form.factors(site, 1)}

    def factors(self) -> dict[str, Factor] | None:
        """Of the forward pass under way; None where it gives none."""
        values = self.context.values
        if not all(name in values for name in self._names.values()):
            return None
        return {factor: values[name] for factor, name in self._names.items()}

    def forward(self, x: Tensor) -> Tensor:  # [examples, ..., d_in] -> [examples, ..., d_out]
        """Base output plus the form's; an example may be several blocks (Swin's windows)."""
        factors = self.factors()
        if factors is None:
            return self.base(x)
        copies = max(map(_copies, factors.values()))
        layout = self.context.layout
        common_rows = layout is None and x.shape[0] == 1 and copies > 1
        if common_rows:
            x = x.expand(copies, *x.shape[1:])
        rows = x.reshape(-1, x.shape[-1])
        y = self.base(rows)
        if self.context.dropout is not None:
            rows = self.context.dropout(self.site, rows.unflatten(0, (copies, -1))).flatten(0, 1)
        layout = layout or Layout.padded(copies, len(rows) // copies)
        y = self.form.delta(rows, factors, layout, self.scale, y).view(*x.shape[:-1], -1)
        return y.as_subclass(_RowPerExample) if common_rows else y


def weight_of(layer: nn.Module) -> Tensor:
    """Weight of a linear layer as ``[d_out, d_in]``: a view, so writing to it changes the layer."""
    weight = layer.get_parameter("weight").data
    return weight.t() if stores_transposed(layer) else weight


def stores_transposed(layer: nn.Module) -> bool:
    """Whether a layer is GPT-2's ``Conv1D``: linear, but with its weight as ``[d_in, d_out]``."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, Conv1D)


def find_sites(
    model: nn.Module,
    suffixes: Sequence[str],
    layers: int | tuple[int, ...] | None = None,
    pattern: str = "NAME",
) -> list[Site]:
    """Linear layers of the base model whose path ends with one of the suffixes, in model order.

    Args:
        model: of transformers.
        suffixes: each may list alternatives, ``a|b``: names of one role in different families.
        layers: ``adapter.layers``, in which transformer layers (as ``layer.5`` of
            ``layer.5.attention.self.query``) sites are; those without a match are not counted.
        pattern: ``adapter.targets``, the name of the suffixes in messages.

    Raises:
        ConfigError: a suffix matches nothing: says what the model has, and what to type. A layer
            that is not there.
    """
    prefix = model.base_model_prefix + "."
    linears = {
        name: module
        for name, module in model.named_modules()
        if name.startswith(prefix) and (isinstance(module, nn.Linear) or stores_transposed(module))
    }
    matched = {
        suffix: [n for n in linears if n.endswith(tuple("." + s for s in suffix.split("|")))]
        for suffix in suffixes
    }
    for suffix, found in matched.items():
        if not found:
            raise ConfigError(_no_site(model, suffix, linears, pattern))
    chosen = {name for found in matched.values() for name in found}
    if layers is not None:
        chosen &= _inside(layers, [name for name in linears if name in chosen])
    shapes = {name: weight_of(module).shape for name, module in linears.items() if name in chosen}
    return [Site(name, d_in, d_out) for name, (d_out, d_in) in shapes.items()]


def _inside(layers: int | tuple[int, ...], names: Sequence[str]) -> set[str]:
    """Those of ``names``, in model order, that lie in the chosen layers."""
    paths = {name: re.match(r".*\.\d+(?=\.)", name) for name in names}
    numbered = {name: path[0] for name, path in paths.items() if path}
    found = list(dict.fromkeys(numbered.values()))
    least = len(found) - layers if isinstance(layers, int) else min(layers)
    last = len(found) - 1 if isinstance(layers, int) else max(layers)
    if least < 0 or last >= len(found):
        shown = layers if isinstance(layers, int) else list(layers)
        raise ConfigError(
            f"adapter.layers={shown}: this model has {len(found)} layers to adapt, numbered from "
            f"0; give a number up to {len(found)}, or numbers below it"
        )
    wanted = {found[n] for n in (range(least, last + 1) if isinstance(layers, int) else layers)}
    return {name for name, path in numbered.items() if path in wanted}


def _no_site(model: nn.Module, suffix: str, linears: Mapping[str, nn.Module], pattern: str) -> str:
    """One line about a pattern that matches nothing: the layers there are, and what to type."""
    family = getattr(getattr(model, "config", None), "model_type", "unknown")
    kinds = _kinds(linears)
    asked = suffix if len(suffix) < _SHOWN else f"{suffix[:_SHOWN]}..."
    said = f"model.targets: {asked!r} names no linear layer of this {family} model"
    if not kinds:
        return f"{said}, which has none; adapters need linear layers"
    hint = nearest(suffix, kinds)
    said += f" (nearest is {hint!r})" if hint else ""
    layers = listed([f"{name} ({count} of {shape})" for name, (count, shape) in kinds.items()], 300)
    of_attention = [name for name in kinds if _ATTENTION.search(name)]
    typed = ",".join(of_attention[:2] or list(kinds)[:2])
    auto = "take model=auto, which knows them, or " if family in (*FAMILIES, *DECODERS) else ""
    return (
        f"{said}, whose linear layers are {layers}; {auto}name those to adapt, as in "
        f"'model.targets.{pattern}=[{typed}]'"
    )


def _kinds(linears: Mapping[str, nn.Module]) -> dict[str, tuple[int, str]]:
    """Layers of one role, named by the end of their paths: how many, and ``d_in x d_out``."""
    ends: dict[str, list[str]] = {}
    for name in linears:
        path = re.split(r"\.\d+\.", name)[-1]  # behind the last number
        ends.setdefault(".".join(path.split(".")[-2:]), []).append(name)
    found = {}
    for end, names in ends.items():
        shapes = [tuple(weight_of(linears[name]).shape) for name in names]
        d_out, d_in = max(set(shapes), key=shapes.count)
        found[end] = len(names), f"{d_in} x {d_out}"
    return found


def install(
    model: nn.Module, sites: Sequence[Site], form: Form, scale: float, context: Context
) -> None:
    """Swap every site of ``model`` for an ``AdaptedLinear`` around the original layer."""
    for site in sites:
        base = model.get_submodule(site.name)
        replace(model, site.name, AdaptedLinear(base, site, form, scale, context))


def replace(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put ``module`` where ``path`` leads in ``model``."""
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
