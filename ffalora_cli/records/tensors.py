"""Packs tensors as safetensors bytes: equal tensors and metadata give equal bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def to_safetensors(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The bytes of a safetensors file.

    The library writes metadata in the order of a randomised hash table, so that two runs with the
    same bits would have different files; here the header's keys are sorted.
    """
    import torch
    from safetensors.torch import save

    # Views of one buffer, as stacks hand them out, are refused by safetensors: copy each.
    whole = torch.contiguous_format
    owned = {n: v.detach().cpu().clone(memory_format=whole) for n, v in tensors.items()}
    content = save(owned, dict(metadata) if metadata else None)
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":"))
    padded = header.encode().ljust(-(-len(header.encode()) // 8) * 8)  # data starts at 8 n
    return len(padded).to_bytes(8, "little") + padded + content[8 + size :]
