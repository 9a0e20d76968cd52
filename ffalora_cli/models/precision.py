"""Says which precision of frozen weights suits a machine, and what ``engine.precision=auto`` is.

It is settled when a command line becomes a job, before its signature: from there on it is a value
like one that was typed, and a run that goes on elsewhere keeps it.
"""

from __future__ import annotations

from dataclasses import replace

from ffalora_cli.config.schema import Config
from ffalora_cli.tasks import registry


def settle_precision(config: Config) -> tuple[Config, tuple[str, ...]]:
    """The configuration with ``auto`` turned into what it is here.

    Returns:
        The configuration, and a line about it where it is not fp32.
    """
    if config.engine.precision != "auto":
        return config, ()
    units = _units_for(config)
    chosen = replace(config.engine, precision="bf16" if units else "fp32")
    said = f"engine.precision is bf16 on this machine ({units}): of the frozen weights alone"
    return replace(config, engine=chosen), (said,) if units else ()


def _units_for(config: Config) -> str:
    """What makes bf16 worth it for these frozen weights; empty: nothing."""
    if not registry.get(config.task.kind).large_base:
        return ""
    import torch

    device, gpu = config.engine.device, torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if gpu else "cpu"
    return matrix_units(device) if gpu or device == "cpu" else ""


def matrix_units(device: str) -> str:
    """What multiplies bf16 matrices many times faster than fp32 ones there; empty: nothing."""
    import torch

    if device != "cpu":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.cuda.get_device_name(device) if native else ""
    return "AMX" if torch.cpu._is_amx_tile_supported() else ""
