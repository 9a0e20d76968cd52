"""Hashes weights: the fingerprint changes when a name, a type, a shape or a bit does."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch


def fingerprint_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """BLAKE2b over names, dtypes, shapes and bytes, in the order of the names.

    Independent of the order in the mapping, of strides and of the device.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        header = f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode()
        digest.update(len(header).to_bytes(4, "little") + header)
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return f"blake2b:{digest.hexdigest()}"
