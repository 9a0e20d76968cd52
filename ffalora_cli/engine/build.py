"""Builds the engine of a run: ``stacked`` (default) or ``reference`` (Opacus, one by one)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.errors import ConfigError

if TYPE_CHECKING:
    from ffalora_cli.engine.job import Engine
    from ffalora_cli.engine.ranks import Ranks
    from ffalora_cli.models.network import Network
    from ffalora_cli.types import Examples

CPU_TOKENS = 2048  # of a micro-batch; LOG.md has the measurement
GPU_TOKENS = (2048, 65536)  # least and most
KEPT = 24  # values of width ``hidden_size`` that a layer keeps of a token for its backward pass
SHARE = 0.5  # of the free memory that these may take


def auto_max_tokens(network: Network) -> int:
    """``engine.max_tokens=null``: a constant on a CPU, on a GPU from its free memory.

    Resolved once a run and recorded; a multiple of 512. Running out all the same halves it.
    """
    import torch

    if network.device.type != "cuda":
        return CPU_TOKENS
    config: Any = network.model.config
    free, _ = torch.cuda.mem_get_info(network.device)
    width = config.hidden_size * next(network.model.parameters()).element_size()
    tokens = int(SHARE * free / (KEPT * width * config.num_hidden_layers))
    least, most = GPU_TOKENS
    return min(max(tokens // 512 * 512, least), most)


def build_engine(
    name: str, network: Network, examples: Examples, max_tokens: int, ranks: Ranks | None = None
) -> Engine:
    """The engine of this name over a network and a training set, one of several ``ranks``'."""
    if name == "reference":
        from ffalora_cli.engine.reference import ReferenceEngine

        return ReferenceEngine(network, examples)
    from ffalora_cli.engine.ranks import ALONE
    from ffalora_cli.engine.stacked.engine import StackedEngine

    return StackedEngine(network, examples, max_tokens, ranks=ranks or ALONE)


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
