"""Writes and reads the header of a payload: what its body holds, checked field by field.

Magic, format version and length of the JSON text (10 bytes, little-endian), then a compact JSON
list with one ``[type, name, kind, dtype, shape]`` per item.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, cast, get_args

from ffalora_cli.types import Kind

_PREFIX = struct.Struct("<4sHI")  # magic, format version, length of the JSON text
_MAGIC = b"FFLP"
_VERSION = 1
_DTYPES = frozenset({"float32", "bfloat16", "uint64"})
_KINDS = frozenset(get_args(Kind))


class PayloadError(ValueError):
    """A payload that cannot be packed, or bytes that are not a payload; one line."""


@dataclass(frozen=True)
class Entry:
    """One item of a payload; what ``shape`` says is the matter of the type's codec."""

    type: str  # a key of ``codecs.CODECS``
    name: str
    kind: Kind
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.kind not in _KINDS or self.dtype not in _DTYPES:
            raise PayloadError(f"payload item {self.name!r} has an unknown kind or dtype")
        if not all(type(extent) is int and 1 <= extent < 2**31 for extent in self.shape):
            raise PayloadError(f"payload item {self.name!r} has an extent outside 1 … 2^31 - 1")


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
