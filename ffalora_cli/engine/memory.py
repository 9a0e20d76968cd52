"""Decides how large a micro-batch is: one rule for every device, from its free memory.

One number, ``max_tokens``, is chosen once a run, recorded, and taken up again by a resumed run; the
room for per-example copies follows from it. So a run is cut alike whatever is free later on, and
micro-batches half as large are half as large in both.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ffalora_cli.config.schema import QUANTISED
from ffalora_cli.models.families.quantised import rounded_layers
from ffalora_cli.models.families.recompute import layers_of
from ffalora_cli.models.families.vocabulary import CHUNK
from ffalora_cli.models.network import Network

LEAST_TOKENS = 512
CPU_TOKENS, GPU_TOKENS = 2048, 65536  # at most; docs/performance.md says what they were measured by
KEPT = 24  # values of the hidden width that a layer keeps of a token for its backward pass: 7 to 21
# are, by family (SDPA 4, norms 2, GELU 4, adapters 1-3, gates up to 9); the rest comes and goes
COPIES = 1 / 8  # of what the tokens keep, for the copies of factors and their gradients
LEAST_COPIES = 2**17  # bytes a token: a small model keeps little, and its copies are small change
MALLOC = {-3: 32 * 2**20, -1: 2**30}  # M_MMAP_THRESHOLD, the most it takes; M_TRIM_THRESHOLD
SCORES = 4  # fp32 tensors of a chunk's rows and the vocabulary: scores, softmax, their gradients
SHARE = 0.5  # of the free memory, for all of it


def auto_max_tokens(network: Network, free: int | None = None) -> int:
    """``engine.max_tokens=null``: the fastest size, halved until half the free memory holds it.

    Powers of two: a little more or less free memory does not change how a run is cut.

    Args:
        network: on its device.
        free: bytes; None: what there is now.
    """
    if free is None:
        free = free_memory(network.device)
    tokens = GPU_TOKENS if network.device.type == "cuda" else CPU_TOKENS
    while tokens > LEAST_TOKENS and needed(network, tokens) > SHARE * free:
        tokens //= 2
    return tokens


def recompute_if_short(network: Network, tokens: int | None, free: int | None = None) -> None:
    """``engine.gradient_checkpointing=null``: where a micro-batch would not fit otherwise.

    Args:
        network: on its device.
        tokens: of a micro-batch; None: as few as ``auto_max_tokens`` would go down to.
        free: bytes; None: what there is now.
    """
    if free is None:
        free = free_memory(network.device)
    short = needed(network, tokens or LEAST_TOKENS) > SHARE * free
    if short and len(layers_of(network.model)) > 1:
        network.recompute()


def needed(network: Network, tokens: int) -> int:
    """Bytes that a micro-batch of so many tokens takes at most."""
    return tokens * kept_bytes(network) + copy_bytes(network, tokens) + score_bytes(network)


def weight_bytes(model: nn.Module, precision: str) -> int:
    """Of a model's weights in this precision; a tied weight counts once."""
    count = sum(p.numel() for p in model.parameters())
    if precision not in QUANTISED:
        return (2 if precision == "bf16" else 4) * count
    rounded = sum(layer.weight.numel() for _, layer in rounded_layers(model))
    return 4 * (count - rounded) + int(rounded * QUANTISED[precision] / 8)


def copy_bytes(network: Network, tokens: int) -> int:
    """Room for the per-example copies and gradients of a micro-batch of so many tokens, bytes."""
    return tokens * max(LEAST_COPIES, int(COPIES * kept_bytes(network)))


def kept_bytes(network: Network) -> int:
    """What the model keeps of one token for its backward pass, bytes."""
    config: Any = network.model.config
    width = config.hidden_size * next(network.model.parameters()).element_size()
    layers = config.num_hidden_layers
    return int(width * (KEPT + layers if network.recomputes else KEPT * layers))


def score_bytes(network: Network) -> int:
    """What a chunk of a language model's scores takes, bytes; 0 for other tasks."""
    if network.task.reads != "vocabulary":
        return 0
    settings: Any = network.model.config
    return SCORES * 4 * CHUNK * int(settings.get_text_config().vocab_size)


def free_memory(device: torch.device) -> int:
    """Bytes that may still be taken: of the GPU, or of this machine and this process's groups."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min([_available(), *_group_limits()])


def keep_freed_memory() -> None:
    """Make glibc hand a freed block out again instead of giving it back to the system.

    By default large blocks come from the system, zeroed page by page, each time a tensor is made:
    4 to 6 % of a step's time on a CPU. The peak stays; other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and sys.platform == "linux":
        for parameter, size in MALLOC.items():
            mallopt(parameter, size)


def out_of_memory(error: BaseException | None) -> bool:
    """Whether this error, or one during whose handling it came, is for want of memory.

    A GPU's allocator has a class of its own for this, the CPU's and cuBLAS's only a message. Out of
    memory in a graph's capture, ending the invalid capture raises an error that says nothing of it.
    """
    while error is not None:
        said = str(error)
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        if "can't allocate memory" in said or "CUBLAS_STATUS_ALLOC_FAILED" in said:
            return True
        error = error.__context__
    return False


def _available(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Of the machine: what Linux calls available, elsewhere all there is."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class GroupFiles:
    """Where a version of Linux's control groups says what a group may take and has taken."""

    root: str  # under the folder of all control groups
    limit: str
    used: str
    cache: str  # of files, in memory.stat: counted as used, but it goes when memory is wanted


GROUPS = {
    "memory": GroupFiles(
        "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
    ),
    "": GroupFiles(".", "memory.max", "memory.current", "inactive_file"),
}
"""By the controllers that ``/proc/self/cgroup`` names in a line: version 1, version 2."""


def _group_limits(
    own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> list[int]:
    """What is left in each control group around this process that has a limit (a job's, say)."""
    left = []
    for line in own.read_text().splitlines() if own.exists() else ():
        _, controllers, path = line.split(":", 2)
        files = GROUPS.get(controllers)
        if files is None:
            continue
        inner = Path(path.lstrip("/"))
        for group in (inner, *inner.parents):
            folder = root / files.root / group
            try:
                limit = int((folder / files.limit).read_text())  # "max": none
                stat = dict(map(str.split, (folder / "memory.stat").read_text().splitlines()))
                used = int((folder / files.used).read_text()) - int(stat.get(files.cache, 0))
            except (OSError, ValueError):
                continue
            left.append(max(0, limit - used))
    return left
