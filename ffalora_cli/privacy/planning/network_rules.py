"""Refuses networks and starting values for which no epsilon would hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ffalora_cli.config.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

DATA_FREE_INITS = frozenset({"kaiming", "orthogonal"})
"""Ways to draw A from a public seed or from the pretrained weights alone.

A data-driven A (LoRA-GA, an SVD of gradients) is a release of the rows it was made from. What a
method makes of a *round* is not: it sees private uploads only, so FedSVD's SVD of their mean is
post-processing.
"""


def check_network(model: nn.Module, covered: Iterable[str], init: str) -> None:
    """Refuse what mixes examples, has no gradient per example, or starts from data.

    Args:
        model: the classifier without adapters, the names of its modules as in ``covered``.
        covered: tensors trained under the plan, ``[head.]<module>.<tensor>``.
        init: ``adapter.init``.

    Raises:
        ConfigError: with the layer, the reason, and what to use instead.
    """
    from torch import nn

    modules = dict(model.named_modules())
    for name, module in modules.items():
        kind = type(module)
        if issubclass(kind, nn.modules.batchnorm._BatchNorm) or "BatchNorm" in kind.__name__:
            raise ConfigError(
                f"model.source: {name} is a BatchNorm, which mixes the examples of a batch, so no "
                "privacy unit holds; use a model with LayerNorm (model=minilm), or privacy=none"
            )
    for name in covered:
        path = name.removeprefix("head.").rpartition(".")[0]
        if isinstance(modules.get(path), nn.Embedding) and "position" in path:
            raise ConfigError(
                f"adapter.targets: {path} is a position embedding, looked up once for the whole "
                "batch: no gradient per example; leave it frozen"
            )
    if init not in DATA_FREE_INITS:
        raise ConfigError(
            f"adapter.init={init!r} is not known to be free of client data, and an A made from "
            "data is a release of it; use adapter.init=kaiming or orthogonal, or privacy=none"
        )
