"""Packs named items into bytes and back. What the ledger counts is the length of these bytes.

One client's payload is the header (see ``header``), the bytes common to all clients of the group
(seeds, merges), then the client's own row of the tag and the dense items; all little-endian. No
pickle; a reader checks every length before it reads. Ours because safetensors holds tensors of one
client alone: it has no seeds or merges, and would pack what a group shares once for each client.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ffalora_cli.federation.wire.codecs import Codec, Part, codec_of, describe
from ffalora_cli.federation.wire.header import Entry, PayloadError, read, write
from ffalora_cli.types import Kind, PayloadItem

WireDtype = Literal["float32", "bfloat16"]


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
    entries = describe(items, wire_dtype)
    shared: list[torch.Tensor] = []  # uint8 [1, bytes] each
    columns: list[torch.Tensor] = []  # uint8 [clients, bytes] each
    for item, entry in zip(items, entries, strict=True):
        codec, parts = codec_of(entry)
        for part, field in zip(parts, codec.take(item), strict=True):
            (columns if codec.per_client else shared).append(part.encode(field))
    if len({len(column) for column in columns}) > 1:
        counts = sorted({len(column) for column in columns})
        raise PayloadError(f"items disagree on the number of clients: {counts}")
    rows = torch.cat(columns, dim=1).numpy() if columns else np.empty((1, 0), dtype=np.uint8)
    common = b"".join(body.numpy().tobytes() for body in shared)
    return Packed(write(entries), common, rows, lines(entries))


def lines(entries: Sequence[Entry]) -> dict[Kind, int]:
    """Bytes of one client by ledger kind; they follow from the header, and sum to its payload."""
    sizes: dict[Kind, int] = {"framing": len(write(entries))}
    for entry in entries:
        for part in codec_of(entry)[1]:
            kind: Kind = "index" if part.index else entry.kind
            sizes[kind] = sizes.get(kind, 0) + part.size
    return sizes


def unpack(payload: Packed | bytes) -> list[PayloadItem]:
    """Decode a group (dense values ``[clients, ...]``) or one client's bytes (``[1, ...]``).

    Dense values of a ``Packed`` are views of its rows where alignment allows: do not write to them.

    Raises:
        PayloadError: the bytes are not a payload of this format, or not of the stated length.
    """
    if isinstance(payload, Packed):
        layout = [(entry, *codec_of(entry)) for entry in read(payload.header)[0]]
        shared, rows = payload.shared, payload.rows
    else:
        entries, start = read(payload)
        layout = [(entry, *codec_of(entry)) for entry in entries]
        middle = start + _size(item for item in layout if not item[1].per_client)
        shared = payload[start:middle]
        rows = np.frombuffer(payload[middle:], dtype=np.uint8)[None].copy()  # writable for torch
    found, expected = len(shared) + rows.shape[1], _size(layout)
    if found != expected:
        raise PayloadError(f"payload body has {found} bytes; its header says {expected}")
    common = np.frombuffer(shared, dtype=np.uint8)[None].copy()
    return _decode(layout, {True: torch.from_numpy(rows), False: torch.from_numpy(common)})


_Layout = tuple[Entry, Codec, Sequence[Part]]


def _size(layout: Iterable[_Layout]) -> int:
    """Bytes of these items in one client's body."""
    return sum(part.size for _, _, parts in layout for part in parts)


def _decode(layout: list[_Layout], bodies: dict[bool, torch.Tensor]) -> list[PayloadItem]:
    """Items from bytes ``[clients, bytes]``, per client and common, of checked length."""
    items: list[PayloadItem] = []
    offsets = {True: 0, False: 0}
    for entry, codec, parts in layout:
        fields = []
        for part in parts:
            at = offsets[codec.per_client]
            offsets[codec.per_client] += part.size
            fields.append(part.decode(bodies[codec.per_client][:, at : at + part.size]))
        items.append(codec.make(entry, *fields))
    return items
