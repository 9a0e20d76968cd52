"""Encodes and decodes each type of payload item: what its header says, its bytes, and back.

``CODECS`` is the one place that knows the items. An item's body is a few parts, each a field of the
item in bytes; a part's length follows from the header alone, so readers check it before they read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ffalora_cli.federation.wire.header import Entry, PayloadError
from ffalora_cli.types import (
    Bits,
    Dense,
    DenseMerge,
    Kind,
    LowRankMerge,
    PayloadItem,
    Rows,
    Scalars,
    Seed,
    Sparse,
    Tag,
)

WIRE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_MOST_PLACES = 2**31 - 1  # elements of a sparse tensor: a forged header cannot ask for more


@dataclass(frozen=True)
class Part:
    """A field of an item in bytes.

    Attributes:
        size: bytes of one client.
        encode: the field of all clients to uint8 ``[clients, size]`` on the CPU.
        decode: the field back from such bytes; refuses what ``encode`` would not write.
        index: whether these bytes say where values belong, not what they are.
    """

    size: int
    encode: Callable[[Any], Tensor]
    decode: Callable[[Tensor], Any]
    index: bool = False


@dataclass(frozen=True)
class Codec:
    """One type of item.

    Attributes:
        item: its class.
        shape: the extents in its header.
        dimensions: how many there may be.
        parts: of its body, raising ``PayloadError`` for extents that no item has.
        take: the item's fields, one a part.
        make: the item from its header and fields.
        dtypes: which dtypes its header may say.
        kind: ledger kind; None where the item says it.
        per_client: whether every client has its own values (others are common to a group).
    """

    item: type
    shape: Callable[[Any], Sequence[int]]
    dimensions: Sequence[int]
    parts: Callable[[Entry], Sequence[Part]]
    take: Callable[[Any], Sequence[Any]]
    make: Callable[..., PayloadItem]
    dtypes: Sequence[str] = ("float32",)
    kind: Kind | None = None
    per_client: bool = True


def numbers(dtype: str, shape: Sequence[int]) -> Part:
    """Floating-point values ``[clients, *shape]``; decoded views are not to be written to."""
    torch_dtype, count = WIRE_DTYPES[dtype], math.prod(shape)
    width = torch_dtype.itemsize

    def encode(values: Tensor) -> Tensor:
        if tuple(values.shape[1:]) != tuple(shape):
            raise PayloadError(f"values are {tuple(values.shape[1:])}, not {tuple(shape)}")
        flat = values.detach().reshape(len(values), count)
        return flat.to("cpu", torch_dtype).contiguous().view(torch.uint8)

    def decode(columns: Tensor) -> Tensor:
        if columns.storage_offset() % width or columns.stride(0) % width:
            columns = columns.clone(memory_format=torch.contiguous_format)
        return columns.view(torch_dtype).reshape(len(columns), *shape)

    return Part(width * count, encode, decode)


def integer(width: int) -> Part:
    """One unsigned integer a client, little-endian, as a numpy array ``[clients]``."""

    def encode(values: Any) -> Tensor:
        values = np.atleast_1d(np.asarray(values))
        if not ((values >= 0) & (values < 2 ** (8 * width))).all():
            raise PayloadError(f"an integer does not fit {width} bytes")
        return torch.from_numpy(values.astype(f"<u{width}").view(np.uint8).reshape(-1, width))

    def decode(columns: Tensor) -> np.ndarray:
        return np.ascontiguousarray(columns.numpy()).view(f"<u{width}").reshape(-1)

    return Part(width, encode, decode)


def codes(width: int, shape: Sequence[int]) -> Part:
    """Integers of ``width`` bits ``[clients, *shape]``, end to end; the last byte ends in zeros."""
    if not 1 <= width <= 32:
        raise PayloadError(f"a code of {width} bits is none of 1 to 32")
    count = math.prod(shape)
    size = -(-count * width // 8)

    def encode(values: Tensor) -> Tensor:
        flat = values.to("cpu").reshape(len(values), -1).numpy()
        if flat.shape[1] != count or flat.min() < 0 or flat.max() >= 2**width:
            raise PayloadError(f"codes are not {count} integers of {width} bits")
        shifts = np.arange(width, dtype=flat.dtype)
        bits = (flat[..., None] >> shifts & 1).astype(np.uint8).reshape(len(flat), -1)
        return torch.from_numpy(np.packbits(bits, axis=1, bitorder="little"))

    def decode(columns: Tensor) -> Tensor:
        bits = np.unpackbits(columns.numpy(), axis=1, bitorder="little")
        if bits[:, count * width :].any():
            raise PayloadError("codes do not end in zeros")
        bits = bits[:, : count * width].reshape(len(bits), count, width)
        powers: Any = (1 << np.arange(width)).astype(np.uint8 if width <= 8 else np.int64)
        return torch.from_numpy(bits @ powers).reshape(len(bits), *shape)

    return Part(size, encode, decode)


def index(kept: int, extent: int) -> Part:
    """Ascending places ``[clients, kept]`` below ``extent``: the shorter of a bitmap and ids."""
    if kept > extent or extent > _MOST_PLACES:
        raise PayloadError(f"{kept} of {extent} places cannot be kept")
    bitmap, ids = codes(1, (extent,)), codes(max(1, (extent - 1).bit_length()), (kept,))
    mapped = bitmap.size <= ids.size

    def encode(places: Tensor) -> Tensor:
        _check_places(places, kept, extent)
        if not mapped:
            return ids.encode(places)
        taken = torch.zeros(len(places), extent, dtype=torch.uint8)
        return bitmap.encode(taken.scatter_(1, places.to("cpu"), 1))

    def decode(columns: Tensor) -> Tensor:
        if mapped:
            taken = bitmap.decode(columns)
            if not bool((taken.sum(1) == kept).all()):
                raise PayloadError(f"a bitmap does not have {kept} places")
            return taken.nonzero()[:, 1].reshape(len(columns), kept)
        places = ids.decode(columns).long()
        _check_places(places, kept, extent)
        return places

    return Part(min(bitmap.size, ids.size), encode, decode, index=True)


def _check_places(places: Tensor, kept: int, extent: int) -> None:
    """Refuse places that are not ``kept`` ascending numbers below ``extent``."""
    ascends = places.shape[1:] == (kept,) and bool((places.diff(dim=1) > 0).all())
    if not ascends or bool((places < 0).any()) or bool((places >= extent).any()):
        raise PayloadError(f"places are not {kept} ascending numbers below {extent}")


def _rows_parts(entry: Entry) -> Sequence[Part]:
    kept, axis, *whole = entry.shape
    if axis > len(whole):
        raise PayloadError(f"payload item {entry.name!r} has no axis {axis}")
    sent = [kept if at == axis else extent for at, extent in enumerate(whole, 1)]
    return index(kept, whole[axis - 1]), numbers(entry.dtype, sent)


def _sparse_parts(entry: Entry) -> Sequence[Part]:
    kept, *whole = entry.shape
    return index(kept, math.prod(whole)), numbers(entry.dtype, (kept,))


def _bits_parts(entry: Entry) -> Sequence[Part]:
    width, *shape = entry.shape
    if width > 8:
        raise PayloadError(f"payload item {entry.name!r} has {width} bits an element")
    return numbers("float32", ()), codes(width, shape)


CODECS = {
    "dense": Codec(
        Dense,
        shape=lambda item: item.values.shape[1:],
        dimensions=range(9),
        parts=lambda entry: [numbers(entry.dtype, entry.shape)],
        take=lambda item: (item.values,),
        make=lambda entry, values: Dense(entry.name, entry.kind, values),
        dtypes=tuple(WIRE_DTYPES),
    ),
    "rows": Codec(
        Rows,
        shape=lambda item: (item.index.shape[1], item.axis + 1, *item.shape),
        dimensions=range(3, 11),
        parts=_rows_parts,
        take=lambda item: (item.index, item.values),
        make=lambda entry, index, values: Rows(
            entry.name, entry.kind, values, index, entry.shape[2:], entry.shape[1] - 1
        ),
        dtypes=tuple(WIRE_DTYPES),
    ),
    "sparse": Codec(
        Sparse,
        shape=lambda item: (item.index.shape[1], *item.shape),
        dimensions=range(2, 10),
        parts=_sparse_parts,
        take=lambda item: (item.index, item.values),
        make=lambda entry, index, values: Sparse(
            entry.name, entry.kind, values, index, entry.shape[1:]
        ),
        dtypes=tuple(WIRE_DTYPES),
    ),
    "bits": Codec(
        Bits,
        shape=lambda item: (item.width, *item.codes.shape[1:]),
        dimensions=range(2, 10),
        parts=_bits_parts,
        take=lambda item: (item.scale, item.codes),
        make=lambda entry, scale, codes: Bits(entry.name, entry.kind, codes, scale, entry.shape[0]),
    ),
    "scalars": Codec(
        Scalars,
        shape=lambda item: item.values.shape[1:],
        dimensions=(1,),
        parts=lambda entry: [numbers("float32", entry.shape)],
        take=lambda item: (item.values,),
        make=lambda entry, values: Scalars(entry.name, entry.kind, values),
    ),
    "seed": Codec(
        Seed,
        shape=lambda item: (),
        dimensions=(0,),
        parts=lambda entry: [integer(8)],
        take=lambda item: (item.seed,),
        make=lambda entry, seed: Seed(entry.name, int(seed[0])),
        dtypes=("uint64",),
        kind="seed",
        per_client=False,
    ),
    "tag": Codec(
        Tag,
        shape=lambda item: (),
        dimensions=(0,),
        parts=lambda entry: [integer(4), integer(4)],
        take=lambda item: (item.client, item.round),
        make=lambda entry, client, round: Tag(
            round.astype(np.int64), client.astype(np.int64), entry.name
        ),
        dtypes=("uint64",),
        kind="framing",
    ),
    "low_rank_merge": Codec(
        LowRankMerge,
        shape=lambda item: (*item.left.shape, item.right.shape[1]),
        dimensions=(3,),  # d_out, rank, d_in
        parts=lambda entry: [numbers("float32", s) for s in (entry.shape[:2], entry.shape[1:])],
        take=lambda item: (item.left[None], item.right[None]),
        make=lambda entry, left, right: LowRankMerge(entry.name, left[0], right[0]),
        kind="merge",
        per_client=False,
    ),
    "dense_merge": Codec(
        DenseMerge,
        shape=lambda item: item.values.shape,
        dimensions=(2,),
        parts=lambda entry: [numbers("float32", entry.shape)],
        take=lambda item: (item.values[None],),
        make=lambda entry, values: DenseMerge(entry.name, values[0]),
        kind="merge",
        per_client=False,
    ),
}
TYPES = {codec.item: type for type, codec in CODECS.items()}


def describe(items: Sequence[PayloadItem], wire_dtype: str) -> list[Entry]:
    """What the header says about ``items``: nothing that depends on a value."""
    entries = []
    for item in items:
        name = TYPES[type(item)]
        codec = CODECS[name]
        kind = codec.kind or item.kind  # type: ignore[union-attr]
        dtype = wire_dtype if wire_dtype in codec.dtypes else codec.dtypes[0]
        entries.append(Entry(name, item.name, kind, dtype, tuple(codec.shape(item))))
    return entries


def codec_of(entry: Entry) -> tuple[Codec, Sequence[Part]]:
    """The codec of an item with this header, and the parts of its body.

    Raises:
        PayloadError: no item has this header.
    """
    codec = CODECS.get(entry.type)
    if codec is None or len(entry.shape) not in codec.dimensions:
        raise PayloadError(f"payload item {entry.name!r} has an unknown type or shape")
    if entry.dtype not in codec.dtypes:
        raise PayloadError(f"payload item {entry.name!r} of type {entry.type} is {entry.dtype}")
    return codec, codec.parts(entry)
