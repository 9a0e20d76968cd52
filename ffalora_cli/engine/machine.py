"""Says what a machine is: its processor or GPU, and how fast that multiplies matrices."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ffalora_cli.models.families.frozen import product

PRODUCTS = ((1024, 384, 384), (1024, 384, 1536), (1024, 1536, 384), (1024, 1024, 1024))
LARGE = ((8192, 1024, 1024), (8192, 1024, 4096), (8192, 4096, 1024), (8192, 8192, 8192))
"""``[m, k] x [k, n]``: a step's of MiniLM, and what fills a GPU."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def machine_name(device: torch.device) -> str:
    """The GPU, or the processor with the widest instructions that torch uses and its AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    wide = torch.backends.cpu.get_cpu_capability()
    units = "AMX" if torch.cpu._is_amx_tile_supported() else "no AMX"
    return f"{_processor()} ({wide}, {units})"


def _processor() -> str:
    """Its name as the system knows it."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def product_rates(device: torch.device, precision: str, seconds: float) -> dict[str, float]:
    """FLOPs a second of the fastest product that each library was seen to do.

    On a CPU torch has two: what ``torch.mm`` takes (in fp32 MKL, in bf16 oneDNN), and oneDNN.

    Args:
        device: to multiply on.
        precision: of the matrices, ``fp32`` or ``bf16``.
        seconds: to try for, each library.
    """
    paths: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"torch.mm": _mm}
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        paths["oneDNN"] = product
    shapes = LARGE if device.type == "cuda" else PRODUCTS
    rates = dict.fromkeys(paths, 0.0)
    for m, k, n in shapes:
        x = torch.randn(m, k, device=device, dtype=DTYPES[precision])
        weight = torch.randn(n, k, device=device, dtype=DTYPES[precision])
        for library, multiply in paths.items():
            fastest = _fastest(partial(multiply, x, weight), device, seconds / len(shapes))
            rates[library] = max(rates[library], 2 * m * k * n / fastest)
    return rates


def _mm(x: Tensor, weight: Tensor) -> Tensor:
    return torch.mm(x, weight.t())


def _fastest(multiply: Callable[[], Tensor], device: torch.device, seconds: float) -> float:
    """Seconds of the fastest call, the first one left out."""
    multiply()
    best, began = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - began < seconds:
        best = min(best, _timed(multiply, device))
    return best


def _timed(multiply: Callable[[], Tensor], device: torch.device) -> float:
    if device.type != "cuda":
        # One thread's processor time: what others do to the machine is not the machine's.
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        started = clock()
        multiply()
        return clock() - started
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    multiply()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000
