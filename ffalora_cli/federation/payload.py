"""Payloads: named items to bytes and back. What the ledger counts is the length of these bytes.

One client's payload is the header (see ``header``), the bytes common to all clients of the group
(seeds, merges), then the client's own row of the tag and the dense items; all little-endian. No
pickle; a reader checks every length before it reads. Ours because safetensors holds tensors of one
client alone: it has no seeds or merges, and would pack what a group shares once for each client.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ffalora_cli.federation.header import Entry, PayloadError, read, write
from ffalora_cli.types import Dense, DenseMerge, Kind, LowRankMerge, PayloadItem, Seed, Tag

__all__ = ["WIRE_DTYPES", "Packed", "PayloadError", "WireDtype", "pack", "unpack"]

WireDtype = Literal["float32", "bfloat16"]

WIRE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Packed:
    """The payloads of a group of clients: the common part once, and one row a client."""

    header: bytes
    shared: bytes
    rows: np.ndarray  # uint8 [clients, bytes]
    lines: Mapping[Kind, int]  # bytes of one client by ledger kind; they sum to bytes_per_client

    @property
    def num_clients(self) -> int:
        """Number of payloads."""
        return int(self.rows.shape[0])

    @property
    def bytes_per_client(self) -> int:
        """Length of one client's payload."""
        return len(self.header) + len(self.shared) + int(self.rows.shape[1])

    def client_bytes(self, index: int) -> bytes:
        """The payload of the ``index``-th client of the group, as sent."""
        return self.header + self.shared + self.rows[index].tobytes()


def pack(items: Sequence[PayloadItem], wire_dtype: WireDtype) -> Packed:
    """Encode items for a group of clients.

    Dense values ``[clients, ...]`` are encoded without a loop over clients; values that all
    receivers share are ``[1, ...]`` and make one payload for the group, as does a group without
    dense items. Merges travel in float32 whatever the wire dtype: they add up in base weights,
    where a rounding would stay for good.

    Args:
        items: in any order; names are unique within a type, tensors are not empty.
        wire_dtype: of the dense values.

    Raises:
        PayloadError: the rules above do not hold, dense items disagree on the number of clients,
            or a seed does not fit eight bytes.
    """
    entries: list[Entry] = []
    shared: list[bytes] = []
    columns: list[torch.Tensor] = []  # uint8 [clients, bytes] each
    for item in items:
        entry = _entry(item, wire_dtype)
        entries.append(entry)
        if isinstance(item, Dense):
            columns.append(_as_bytes(item.values, WIRE_DTYPES[wire_dtype]))
        elif isinstance(item, Tag):
            columns.append(_tag_bytes(item))
        else:
            shared.append(_common_bytes(item))
    header = write(entries)
    if len({column.shape[0] for column in columns}) > 1:
        counts = sorted({column.shape[0] for column in columns})
        raise PayloadError(f"dense items disagree on the number of clients: {counts}")
    rows = torch.cat(columns, dim=1).numpy() if columns else np.empty((1, 0), dtype=np.uint8)
    lines: dict[Kind, int] = {"framing": len(header)}
    for entry in entries:
        lines[entry.kind] = lines.get(entry.kind, 0) + entry.size
    return Packed(header, b"".join(shared), rows, lines)


def unpack(payload: Packed | bytes) -> list[PayloadItem]:
    """Decode a group (dense values ``[clients, ...]``) or one client's bytes (``[1, ...]``).

    Dense values of a ``Packed`` are views of its rows where alignment allows: do not write to them.

    Raises:
        PayloadError: the bytes are not a payload of this format, or not of the stated length.
    """
    if isinstance(payload, Packed):
        entries, _ = read(payload.header)
        shared, rows = payload.shared, payload.rows
    else:
        entries, start = read(payload)
        middle = start + sum(entry.size for entry in entries if not entry.per_client)
        shared = payload[start:middle]
        rows = np.frombuffer(payload[middle:], dtype=np.uint8)[None].copy()  # writable for torch
    expected = sum(entry.size for entry in entries)
    found = len(shared) + rows.shape[1]
    if found != expected:
        raise PayloadError(f"payload body has {found} bytes; its header says {expected}")
    return _decode(entries, shared, torch.from_numpy(rows))


def _entry(item: PayloadItem, wire_dtype: WireDtype) -> Entry:
    """What the header says about an item."""
    if isinstance(item, Dense):
        return Entry("dense", item.name, item.kind, wire_dtype, tuple(item.values.shape[1:]))
    if isinstance(item, Seed):
        return Entry("seed", item.name, "seed", "uint64", ())
    if isinstance(item, Tag):
        return Entry("tag", item.name, "framing", "uint64", ())
    if isinstance(item, DenseMerge):
        return Entry("dense_merge", item.name, "merge", "float32", tuple(item.values.shape))
    (d_out, rank), d_in = item.left.shape, item.right.shape[1]
    return Entry("low_rank_merge", item.name, "merge", "float32", (d_out, rank, d_in))


def _common_bytes(item: Seed | LowRankMerge | DenseMerge) -> bytes:
    """The body of an item that all clients of a group share."""
    if isinstance(item, Seed):
        if not 0 <= item.seed < 2**64:
            raise PayloadError(f"seed {item.name}={item.seed} does not fit eight bytes")
        return item.seed.to_bytes(8, "little")
    parts = (item.values,) if isinstance(item, DenseMerge) else (item.left, item.right)
    return b"".join(_as_bytes(part[None], torch.float32).numpy().tobytes() for part in parts)


def _tag_bytes(tag: Tag) -> torch.Tensor:
    """Round in the upper and client in the lower four bytes, uint8 ``[clients, 8]``."""
    fits = all(((part >= 0) & (part < 2**32)).all() for part in (tag.round, tag.client))
    if not fits or len(tag.round) != len(tag.client):
        raise PayloadError("a tag has a round or client outside 0 … 2^32 - 1")
    words = (tag.round.astype("<u8") << np.uint64(32)) | tag.client.astype("<u8")
    return torch.from_numpy(words.view(np.uint8).reshape(-1, 8))


def _as_bytes(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Values ``[clients, ...]`` as uint8 ``[clients, bytes]`` on the CPU."""
    flat = values.detach().reshape(len(values), math.prod(values.shape[1:]))
    return flat.to("cpu", dtype).contiguous().view(torch.uint8)


def _decode(entries: list[Entry], shared: bytes, rows: torch.Tensor) -> list[PayloadItem]:
    """Items from checked entries, the common bytes, and uint8 rows ``[clients, bytes]``."""
    items: list[PayloadItem] = []
    row_offset = shared_offset = 0
    for entry in entries:
        if entry.per_client:
            columns = rows[:, row_offset : row_offset + entry.size]
            row_offset += entry.size
            items.append(_tag(entry, columns) if entry.type == "tag" else _dense(entry, columns))
        else:
            items.append(_common(entry, shared[shared_offset : shared_offset + entry.size]))
            shared_offset += entry.size
    return items


def _dense(entry: Entry, columns: torch.Tensor) -> Dense:
    """A dense item from its uint8 columns ``[clients, bytes]``."""
    dtype = WIRE_DTYPES[entry.dtype]
    width = dtype.itemsize
    if columns.storage_offset() % width or columns.stride(0) % width:
        columns = columns.clone(memory_format=torch.contiguous_format)
    values = columns.view(dtype).reshape(len(columns), *entry.shape)
    return Dense(entry.name, entry.kind, values)


def _tag(entry: Entry, columns: torch.Tensor) -> Tag:
    """A tag from its uint8 columns ``[clients, 8]``."""
    words = np.ascontiguousarray(columns.numpy()).view("<u8").reshape(-1)
    high, low = words >> np.uint64(32), words & np.uint64(2**32 - 1)
    return Tag(high.astype(np.int64), low.astype(np.int64), entry.name)


def _common(entry: Entry, body: bytes) -> Seed | LowRankMerge | DenseMerge:
    """A seed or a merge from its bytes."""
    if entry.type == "seed":
        return Seed(entry.name, int.from_bytes(body, "little"))
    values = torch.from_numpy(np.frombuffer(body, dtype="<f4").copy())
    if entry.type == "dense_merge":
        return DenseMerge(entry.name, values.reshape(entry.shape))
    d_out, rank, d_in = entry.shape
    left, right = values.split([d_out * rank, rank * d_in])
    return LowRankMerge(entry.name, left.reshape(d_out, rank), right.reshape(rank, d_in))
