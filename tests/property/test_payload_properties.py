"""Whatever is packed comes back; whatever is damaged is refused."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ffalora_cli.federation.wire.header import PayloadError
from ffalora_cli.federation.wire.payload import pack, unpack
from ffalora_cli.types import (
    Bits,
    Dense,
    DenseMerge,
    LowRankMerge,
    Rows,
    Scalars,
    Seed,
    Sparse,
    Tag,
)

extents = st.integers(1, 4)
kinds = st.sampled_from(["adapter", "head", "index", "setup"])

PARTIAL = ("rows", "sparse", "bits", "scalars")


def partial(draw, kind, name, clients, generator):
    """An item that carries a part of a tensor."""
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    if kind == "scalars":
        return Scalars(name, draw(kinds), torch.randn(clients, shape[0], generator=generator))
    if kind == "bits":
        width = draw(st.integers(1, 8))
        codes = torch.randint(0, 2**width, (clients, *shape), generator=generator)
        scale = torch.rand(clients, generator=generator)
        return Bits(name, draw(kinds), codes.to(torch.uint8), scale, width)
    axis = draw(st.integers(0, len(shape) - 1))
    extent = shape[axis] if kind == "rows" else math.prod(shape)
    kept = draw(st.integers(1, extent))
    order = torch.rand(clients, extent, generator=generator).argsort(1)
    index = order[:, :kept].sort(1).values
    if kind == "sparse":
        values = torch.randn(clients, kept, generator=generator)
        return Sparse(name, draw(kinds), values, index, shape)
    sent = [kept if at == axis else extent for at, extent in enumerate(shape)]
    values = torch.randn(clients, *sent, generator=generator)
    return Rows(name, draw(kinds), values, index, shape, axis)


@st.composite
def payload_items(draw):
    clients = draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))

    def values(*shape):
        return torch.randn(shape, generator=generator)

    items = []
    for name in draw(st.lists(st.text(max_size=8), unique=True, max_size=5)):
        kind = draw(st.sampled_from(["dense", "seed", "low_rank", "dense_merge", *PARTIAL]))
        if kind == "dense":
            shape = draw(st.lists(extents, max_size=3))
            items.append(Dense(name, draw(kinds), values(clients, *shape)))
        elif kind in PARTIAL:
            items.append(partial(draw, kind, name, clients, generator))
        elif kind == "seed":
            items.append(Seed(name, draw(st.integers(0, 2**64 - 1))))
        elif kind == "low_rank":
            d_out, rank, d_in = draw(extents), draw(extents), draw(extents)
            items.append(LowRankMerge(name, values(d_out, rank), values(rank, d_in)))
        else:
            items.append(DenseMerge(name, values(draw(extents), draw(extents))))
    if draw(st.booleans()):
        words = st.lists(st.integers(0, 2**32 - 1), min_size=clients, max_size=clients)
        items.insert(0, Tag(np.array(draw(words)), np.array(draw(words))))
    return items


def equal(left, right):
    return type(left) is type(right) and all(
        np.array_equal(np.asarray(value), np.asarray(getattr(right, field)))
        for field, value in vars(left).items()
    )


@settings(max_examples=100, deadline=None)
@given(payload_items())
def test_float32_round_trip_and_lines(items):
    packed = pack(items, "float32")
    assert all(equal(x, y) for x, y in zip(items, unpack(packed), strict=True))
    sent = packed.client_bytes(packed.num_clients - 1)
    assert len(sent) == packed.bytes_per_client == sum(packed.lines.values())
    assert [type(item) for item in unpack(sent)] == [type(item) for item in items]


@settings(max_examples=50, deadline=None)
@given(payload_items())
def test_bfloat16_round_trip_is_rounding_to_nearest(items):
    for sent, received in zip(items, unpack(pack(items, "bfloat16")), strict=True):
        if isinstance(sent, Dense | Rows | Sparse):
            assert torch.equal(received.values, sent.values.bfloat16())
            assert torch.equal(received.dense(), sent.dense().bfloat16())
        else:
            assert equal(sent, received)


@settings(max_examples=200, deadline=None)
@given(payload_items(), st.data())
def test_cut_or_lengthened_payloads_are_refused(items, data):
    sent = pack(items, "float32").client_bytes(0)
    cut = data.draw(st.integers(0, len(sent) - 1))
    for damaged in (sent[:cut], sent + b"\0"):
        try:
            unpack(damaged)
        except PayloadError as error:
            assert "\n" not in str(error)
        else:
            raise AssertionError("accepted a payload of the wrong length")


@settings(max_examples=200, deadline=None)
@given(payload_items(), st.data())
def test_a_flipped_byte_is_refused_or_decodes(items, data):
    sent = bytearray(pack(items, "float32").client_bytes(0))
    position = data.draw(st.integers(0, len(sent) - 1))
    sent[position] ^= data.draw(st.integers(1, 255))
    try:
        decoded = unpack(bytes(sent))
    except PayloadError:
        return
    assert len(decoded) == len(items)  # values or a name differ, the structure holds
    for item in decoded:
        if isinstance(item, Rows | Sparse | Bits):
            item.dense()  # whatever was read can be used
