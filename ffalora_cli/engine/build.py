"""Builds the engine of a run: ``stacked`` (default) or ``reference`` (Opacus, one by one)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.errors import ConfigError

if TYPE_CHECKING:
    from ffalora_cli.engine.job import Engine
    from ffalora_cli.engine.ranks import Ranks
    from ffalora_cli.engine.sharding import Shares
    from ffalora_cli.models.network import Network
    from ffalora_cli.types import Examples


def build_engine(
    name: str,
    network: Network,
    examples: Examples,
    max_tokens: int,
    ranks: Ranks | None = None,
    shares: Shares | None = None,
) -> Engine:
    """The engine of this name over a network and a training set, one of several ``ranks``'.

    Where they hold ``shares`` of its layers, they make their passes together.
    """
    if name == "reference":
        from ffalora_cli.engine.reference import ReferenceEngine

        return ReferenceEngine(network, examples)
    from ffalora_cli.engine.memory import keep_freed_memory
    from ffalora_cli.engine.ranks import ALONE
    from ffalora_cli.engine.stacked.engine import StackedEngine

    if network.device.type == "cpu":
        keep_freed_memory()
    return StackedEngine(network, examples, max_tokens, ranks=ranks or ALONE, shares=shares)


def has_gpus(wanted: str) -> bool:
    """Whether ``engine.device`` stands for a GPU here."""
    import torch

    return wanted.startswith("cuda") or (wanted == "auto" and torch.cuda.is_available())


def pick_device(wanted: str, cuda: Any = None) -> str:
    """``auto`` is the GPU where there is one; a GPU becomes torch's current device.

    Of several processes on a machine each takes the GPU of its number (torchrun's ``LOCAL_RANK``).
    What has no device of its own (streams, graphs, their memory) is made on the current one.

    Args:
        wanted: ``engine.device``.
        cuda: ``torch.cuda``, or what stands for it.

    Raises:
        ConfigError: the device is not there.
    """
    import torch

    cuda = cuda or torch.cuda
    if wanted == "auto":
        wanted = "cuda" if cuda.is_available() else "cpu"
    if wanted == "cuda" and "LOCAL_RANK" in os.environ:
        wanted = f"cuda:{os.environ['LOCAL_RANK']}"
    kind, _, index = wanted.partition(":")
    if kind != "cuda":
        return wanted
    if cuda.device_count() <= int(index or 0):
        raise ConfigError(
            f"engine.device={wanted}: {cuda.device_count()} CUDA devices are visible; "
            "use engine.device=cpu or auto"
        )
    cuda.set_device(int(index or 0))
    return wanted
