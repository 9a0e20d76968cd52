"""Local training of a whole cohort: ``stacked`` (default) or ``reference`` (Opacus, one by one)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ffalora_cli.config.errors import ConfigError

if TYPE_CHECKING:
    from ffalora_cli.engine.job import Engine
    from ffalora_cli.models.network import Network
    from ffalora_cli.types import Examples

MAX_TOKENS = {"cpu": 2048, "cuda": 8192}
"""Tokens of a micro-batch by device type; LOG.md has the CPU measurement, the other is a guess."""


def build_engine(
    name: str, network: Network, examples: Examples, max_tokens: int, precision: str = "fp32"
) -> Engine:
    """The engine of this name over a network and a training set."""
    if name == "reference":
        from ffalora_cli.engine.reference import ReferenceEngine

        return ReferenceEngine(network, examples, precision)
    from ffalora_cli.engine.stacked import StackedEngine

    return StackedEngine(network, examples, max_tokens)


def pick_device(wanted: str) -> str:
    """``auto`` is the GPU where there is one.

    Raises:
        ConfigError: the device is not there.
    """
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = wanted.partition(":")
    if kind == "cuda" and torch.cuda.device_count() <= int(index or 0):
        raise ConfigError(
            f"engine.device={wanted}: {torch.cuda.device_count()} CUDA devices are visible; "
            "use engine.device=cpu or auto"
        )
    return wanted
