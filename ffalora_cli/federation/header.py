"""The header of a payload: what its body holds, checked field by field when read.

Magic, format version and length of the JSON text (10 bytes, little-endian), then a compact JSON
list with one ``[type, name, kind, dtype, shape]`` per item.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, cast, get_args

from ffalora_cli.types import Kind

_PREFIX = struct.Struct("<4sHI")  # magic, format version, length of the JSON text
_MAGIC = b"FFLP"
_VERSION = 1
_DIMENSIONS = {
    "seed": (0,),
    "tag": (0,),
    "low_rank_merge": (3,),
    "dense_merge": (2,),
    "dense": range(9),
}
_WIDTHS = {"float32": 4, "bfloat16": 2, "uint64": 8}  # bytes per element
_KINDS = frozenset(get_args(Kind))


class PayloadError(ValueError):
    """A payload that cannot be packed, or bytes that are not a payload; one line."""


@dataclass(frozen=True)
class Entry:
    """One item of a payload; ``shape`` of a low-rank merge is ``(d_out, rank, d_in)``."""

    type: str  # "dense", "seed", "tag", "low_rank_merge", "dense_merge"
    name: str
    kind: Kind
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        known = self.kind in _KINDS and self.dtype in _WIDTHS
        if not known or len(self.shape) not in _DIMENSIONS.get(self.type, ()):
            raise PayloadError(f"payload item {self.name!r} has an unknown type, kind or shape")
        if (self.dtype == "uint64") != (self.type in ("seed", "tag")):
            raise PayloadError(f"payload item {self.name!r} of type {self.type} is {self.dtype}")
        if self.type.endswith("merge") and self.dtype != "float32":
            raise PayloadError(f"payload item {self.name!r}: merges travel in float32")
        if not all(type(extent) is int and 1 <= extent < 2**31 for extent in self.shape):
            raise PayloadError(f"payload item {self.name!r} has an extent outside 1 … 2^31 - 1")

    @property
    def per_client(self) -> bool:
        """Whether every client has its own values (all other items are common to a group)."""
        return self.type in ("dense", "tag")

    @property
    def size(self) -> int:
        """Bytes of the item's body in one client's payload."""
        if self.type == "low_rank_merge":
            d_out, rank, d_in = self.shape
            return _WIDTHS[self.dtype] * rank * (d_out + d_in)
        return _WIDTHS[self.dtype] * math.prod(self.shape)


def write(entries: Sequence[Entry]) -> bytes:
    """Prefix and JSON text of ``entries``.

    Raises:
        PayloadError: two items of one type have the same name.
    """
    _check_names(entries)
    text = json.dumps([astuple(entry) for entry in entries], separators=(",", ":")).encode()
    return _PREFIX.pack(_MAGIC, _VERSION, len(text)) + text


def read(payload: bytes) -> tuple[list[Entry], int]:
    """Entries at the start of ``payload`` and the offset of the body behind them.

    Raises:
        PayloadError: no complete header of this format; nothing past the end is read.
    """
    if len(payload) < _PREFIX.size:
        raise PayloadError(f"payload of {len(payload)} bytes is shorter than its prefix")
    magic, version, length = _PREFIX.unpack_from(payload)
    if magic != _MAGIC:
        raise PayloadError(f"payload starts with {magic!r}, not {_MAGIC!r}")
    if version != _VERSION:
        raise PayloadError(f"payload format {version} is not the supported format {_VERSION}")
    start = _PREFIX.size + length
    if start > len(payload):
        raise PayloadError(f"payload header of {length} bytes runs past the payload's end")
    try:
        fields = json.loads(payload[_PREFIX.size : start].decode())
    except (ValueError, RecursionError):
        raise PayloadError("payload header is not UTF-8 JSON") from None
    if not isinstance(fields, list):
        raise PayloadError("payload header is not a list of items")
    entries = [_parse(item) for item in fields]
    _check_names(entries)
    return entries, start


def _parse(fields: Any) -> Entry:
    """An entry from its five JSON fields, or a ``PayloadError``."""
    if not isinstance(fields, list) or len(fields) != 5:
        raise PayloadError("payload header has an item without its five fields")
    *words, shape = fields
    if not all(isinstance(word, str) for word in words) or not isinstance(shape, list):
        raise PayloadError("payload header has an item with a field of the wrong type")
    type_, name, kind, dtype = words
    return Entry(type_, name, cast(Kind, kind), dtype, tuple(shape))


def _check_names(entries: Sequence[Entry]) -> None:
    if len({(entry.type, entry.name) for entry in entries}) != len(entries):
        raise PayloadError("payload has two items of one type with the same name")
