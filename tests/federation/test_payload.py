import json
import struct

import numpy as np
import pytest
import torch

from ffalora_cli.federation.wire.header import PayloadError
from ffalora_cli.federation.wire.payload import pack, unpack
from ffalora_cli.types import Bits, Dense, DenseMerge, LowRankMerge, Rows, Scalars, Seed, Sparse


def adapter_items(layers, width, rank, factors, clients=1):
    shapes = {"lora_a": (rank, width), "lora_b": (width, rank)}
    return [
        Dense(
            f"encoder.layer.{layer}.attention.self.{module}.{factor}",
            "adapter",
            torch.zeros(clients, *shapes[factor]),
        )
        for layer in range(layers)
        for module in ("query", "value")
        for factor in factors
    ]


@pytest.mark.parametrize(
    ("layers", "width", "lora", "ffa"),
    [(24, 1024, 3_145_728, 1_572_864), (6, 384, 294_912, 147_456)],
    ids=["roberta_large", "minilm"],
)
def test_published_adapter_bytes(layers, width, lora, ffa):
    both = pack(adapter_items(layers, width, 8, ("lora_a", "lora_b")), "float32")
    one = pack(adapter_items(layers, width, 8, ("lora_b",)), "float32")
    assert both.lines["adapter"] == lora
    assert one.lines["adapter"] == ffa
    assert len(one.client_bytes(0)) == ffa + one.lines["framing"]
    assert (
        pack(adapter_items(layers, width, 8, ("lora_b",)), "bfloat16").lines["adapter"] == ffa / 2
    )


def all_kinds(clients=3):
    return [
        Seed("adapter", 2**64 - 1),
        Dense("head.bias", "head", torch.randn(clients, 5)),
        LowRankMerge("s@2", torch.randn(4, 2), torch.randn(2, 3)),
        Dense("s.lora_b", "adapter", torch.randn(clients, 4, 2)),
        DenseMerge("t", torch.randn(4, 3)),
    ]


def same(left, right):
    assert type(left) is type(right)
    for field in vars(left):
        one, other = getattr(left, field), getattr(right, field)
        assert torch.equal(one, other) if torch.is_tensor(one) else one == other


def test_round_trip_as_a_group_and_as_one_client():
    items = all_kinds()
    packed = pack(items, "float32")
    for left, right in zip(items, unpack(packed), strict=True):
        same(left, right)
    for client in range(3):
        for left, right in zip(items, unpack(packed.client_bytes(client)), strict=True):
            if isinstance(left, Dense):
                left = Dense(left.name, left.kind, left.values[client : client + 1])
            same(left, right)


def test_lines_sum_to_the_length_of_what_is_sent():
    packed = pack(all_kinds(), "float32")
    assert packed.lines["seed"] == 8
    assert packed.lines["head"] == 4 * 5
    assert packed.lines["adapter"] == 4 * 8
    assert packed.lines["merge"] == 4 * (4 * 2 + 2 * 3) + 4 * 12
    assert packed.num_clients == 3
    for client in range(3):
        assert len(packed.client_bytes(client)) == packed.bytes_per_client
    assert sum(packed.lines.values()) == packed.bytes_per_client


def test_bfloat16_rounds_dense_values_and_leaves_merges_alone():
    items = all_kinds()
    packed = pack(items, "bfloat16")
    received = {item.name: item for item in unpack(packed)}
    expected = items[3].values.bfloat16()
    assert received["s.lora_b"].values.dtype == torch.bfloat16
    assert torch.equal(received["s.lora_b"].values, expected)
    assert torch.equal(received["s@2"].left, items[2].left)
    assert packed.lines["adapter"] == 2 * 8


def test_an_empty_payload_is_framing_only():
    packed = pack([], "float32")
    assert packed.lines == {"framing": packed.bytes_per_client}
    assert unpack(packed.client_bytes(0)) == []


def test_an_index_is_a_bitmap_or_ids_whichever_is_shorter():
    """4096 seeds: 200 ids of twelve bits are 300 bytes, a bitmap 512."""
    values = torch.randn(2, 4096)

    def sent(kept, shape):
        index = torch.rand(2, 4096).topk(kept).indices.sort().values
        packed = pack([Sparse("x", "adapter", values.gather(1, index), index, shape)], "float32")
        assert torch.equal(unpack(packed)[0].index, index)
        return packed.lines["index"], packed.lines["adapter"]

    assert sent(200, (4096,)) == (300, 800)
    assert sent(341, (64, 64)) == (512, 1364)  # ids would be 512 bytes, too
    assert sent(1000, (64, 64)) == (512, 4000)


def test_bits_of_every_width_are_end_to_end():
    for width in range(1, 9):
        codes = torch.randint(0, 2**width, (3, 5, 7), dtype=torch.uint8)
        packed = pack([Bits("x", "head", codes, torch.rand(3), width)], "bfloat16")
        assert packed.lines["head"] == 4 + -(-35 * width // 8)
        assert torch.equal(unpack(packed)[0].codes, codes)


def test_scalars_travel_in_float32_whatever_the_wire():
    values = torch.randn(3, 5)
    packed = pack([Scalars("x", "adapter", values)], "bfloat16")
    assert packed.lines["adapter"] == 20
    assert torch.equal(unpack(packed)[0].values, values)


def test_scalars_and_non_contiguous_values():
    values = torch.randn(3, 4, 2).transpose(1, 2)
    packed = pack([Dense("x", "adapter", values), Dense("c", "index", torch.ones(3))], "float32")
    first, second = unpack(packed)
    assert torch.equal(first.values, values)
    assert second.values.shape == (3,)


def test_a_thousand_clients_pack_in_one_copy():
    values = torch.arange(1000 * 64, dtype=torch.float32).reshape(1000, 64)
    packed = pack([Dense("x", "adapter", values)], "float32")
    assert packed.rows.shape == (1000, 256)
    (item,) = unpack(packed.client_bytes(999))
    assert torch.equal(item.values[0], values[999])


ONES = torch.ones(1, 2)
CODES = torch.ones(1, 2, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([Seed("head", -1)], "does not fit 8 bytes"),
        ([Seed("head", 2**64)], "does not fit 8 bytes"),
        ([Seed("head", 1), Seed("head", 2)], "same name"),
        ([Dense("x", "adapter", torch.zeros(2, 0))], "extent"),
        (
            [Dense("x", "adapter", torch.zeros(2, 1)), Dense("y", "adapter", torch.zeros(3, 1))],
            r"number of clients: \[2, 3\]",
        ),
        ([Sparse("x", "adapter", ONES, torch.tensor([[2, 1]]), (3,))], "2 ascending numbers"),
        ([Sparse("x", "adapter", ONES, torch.tensor([[1, 3]]), (3,))], "2 ascending numbers"),
        ([Sparse("x", "adapter", ONES, torch.tensor([[-1, 1]]), (3,))], "2 ascending numbers"),
        ([Sparse("x", "adapter", ONES, torch.tensor([[0]]), (3,))], r"are \(2,\), not \(1,\)"),
        ([Rows("x", "adapter", ONES, torch.tensor([[0, 1]]), (1, 2))], "2 of 1 places"),
        ([Bits("x", "adapter", 2 * CODES, torch.ones(1))], "2 integers of 1 bits"),
        ([Bits("x", "adapter", CODES, torch.ones(2))], r"number of clients: \[1, 2\]"),
    ],
)
def test_what_cannot_be_packed_is_refused(items, message):
    with pytest.raises(PayloadError, match=message):
        pack(items, "float32")


def blob(entries, body=b"", version=1, magic=b"FFLP", length=None):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    size = len(text) if length is None else length
    return struct.pack("<4sHI", magic, version, size) + text + body


DENSE = ["dense", "x", "adapter", "float32", [2]]


def packed_part(type, shape, dtype="float32"):
    return [type, "x", "adapter", dtype, shape]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "shorter than its prefix"),
        (blob([], magic=b"PK\x03\x04"), "starts with"),
        (blob([], version=2), "format 2"),
        (blob([], length=1000), "past the payload's end"),
        (blob(b"\xff\xfe"), "not UTF-8 JSON"),
        (blob(b"[" * 100_000), "not UTF-8 JSON"),
        (blob({"a": 1}), "not a list"),
        (blob([7]), "five fields"),
        (blob([["dense", "x", "adapter", [], [2]]], bytes(8)), "wrong type"),
        (blob([["pickle", "x", "adapter", "float32", [2]]], bytes(8)), "unknown type"),
        (blob([["dense", "x", "gold", "float32", [2]]], bytes(8)), "unknown kind"),
        (blob([["dense", "x", "adapter", "float32", [-2]]]), "extent"),
        (blob([["dense", "x", "adapter", "float32", [True]]], bytes(4)), "extent"),
        (blob([["dense", "x", "adapter", "float32", [10**40]]]), "extent"),
        (blob([["dense", "x", "adapter", "float32", [2**31 - 1] * 8]]), "header says"),
        (blob([["dense", "x", "adapter", "uint64", [1]]], bytes(8)), "is uint64"),
        (blob([["low_rank_merge", "x", "merge", "float32", [2, 2]]], bytes(16)), "unknown type"),
        (blob([DENSE], bytes(7)), "has 7 bytes; its header says 8"),
        (blob([DENSE], bytes(9)), "has 9 bytes; its header says 8"),
        (blob([["seed", "x", "seed", "uint64", []]], bytes(4)), "has 4 bytes; its header says 8"),
        (blob([DENSE, DENSE], bytes(16)), "same name"),
        (blob([packed_part("sparse", [3, 2])], bytes(13)), "3 of 2 places"),
        (blob([packed_part("sparse", [1, 2**30, 2])], bytes(9)), "1 of 2147483648 places"),
        (blob([packed_part("sparse", [2])], bytes(9)), "unknown type or shape"),
        (blob([packed_part("sparse", [2, 9], "uint64")], bytes(9)), "is uint64"),
        (blob([packed_part("sparse", [2, 9])], bytes(8)), "has 8 bytes; its header says 9"),
        (blob([packed_part("sparse", [2, 9])], b"\x12" + bytes(8)), "ascending"),  # 2, 1
        (blob([packed_part("sparse", [2, 9])], b"\x11" + bytes(8)), "ascending"),
        (blob([packed_part("sparse", [2, 9])], b"\x91" + bytes(8)), "ascending"),  # 1, 9 of 0-8
        (blob([packed_part("sparse", [1, 9])], b"\x11" + bytes(4)), "end in zeros"),
        (blob([packed_part("rows", [2, 1, 8])], b"\x07" + bytes(8)), "does not have 2 places"),
        (blob([packed_part("rows", [2, 2, 8])], bytes(9)), "no axis 2"),
        (blob([packed_part("rows", [2, 1, 5])], b"\x81" + bytes(8)), "end in zeros"),
        (blob([packed_part("bits", [9, 8])], bytes(13)), "9 bits"),
        (blob([packed_part("bits", [3, 2])], bytes(4) + b"\x40"), "end in zeros"),
        (blob([packed_part("bits", [1, 8], "bfloat16")], bytes(5)), "is bfloat16"),
        (blob([packed_part("scalars", [2, 2])], bytes(16)), "unknown type or shape"),
    ],
)
def test_bytes_that_are_no_payload_are_refused_in_one_line(payload, message):
    with pytest.raises(PayloadError, match=message) as caught:
        unpack(payload)
    assert "\n" not in str(caught.value)


def test_unaligned_foreign_columns_are_read():
    """A bfloat16 scalar before a float32: our packer never mixes widths, another may."""
    entries = [["dense", "h", "head", "bfloat16", []], ["dense", "x", "adapter", "float32", [2]]]
    body = torch.tensor([1.5]).bfloat16().view(torch.uint8).numpy().tobytes()
    body += np.array([2.0, 3.0], dtype="<f4").tobytes()
    half, full = unpack(blob(entries, body))
    assert half.values.tolist() == [1.5]
    assert full.values.tolist() == [[2.0, 3.0]]
