"""Methods that send parts of their tensors, added from outside the package by an entry point."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ffalora_cli.federation.rehearsal import rehearse
from ffalora_cli.federation.wire.payload import pack, unpack
from ffalora_cli.types import Bits, Dense, Rows, Sparse
from tests.arrivals import EXAMPLE, NONE, SIZES, federate
from tests.entry_points import install

TOYS = '''
import torch

from ffalora_cli.methods.ffa_lora import FFALoRA
from ffalora_cli.types import Bits, Rows, Scalars, Sparse


class Updates(FFALoRA):
    """FFA-LoRA that sends something of every update; what is not sent did not happen."""

    def compress(self, trained, before):
        return [self.item(name, value - before[name]) for name, value in trained.items()]

    def restore(self, items, before):
        return {i.name: before[i.name] + i.dense() for i in items}


class Top(Updates):
    """The largest elements."""

    def __init__(self, kept):
        self.kept = kept

    def item(self, name, update):
        flat = update.flatten(1)
        index = flat.abs().topk(self.kept).indices.sort().values
        return Sparse(name, "adapter", flat.gather(1, index), index, tuple(update.shape[1:]))


class Ranks(Updates):
    """The two largest columns."""

    def item(self, name, update):
        index = update.norm(dim=1).topk(2).indices.sort().values
        part = update.gather(2, index[:, None, :].expand(-1, update.shape[1], -1))
        return Rows(name, "adapter", part, index, tuple(update.shape[1:]), axis=1)


class Signs(Updates):
    """Signs, as long as the mean element."""

    def item(self, name, update):
        return Bits(name, "adapter", (update > 0).to(torch.uint8), update.abs().flatten(1).mean(1))


class Projected(FFALoRA):
    """How far each update goes in a direction that everybody draws."""

    def direction(self, like):
        return torch.randn(like.shape, generator=torch.Generator().manual_seed(7)).to(like.device)

    def compress(self, trained, before):
        moved = {name: value - before[name] for name, value in trained.items()}
        lengths = [(v * self.direction(v[0])).flatten(1).sum(1) for v in moved.values()]
        return [Scalars("projected", "adapter", torch.stack(lengths, 1))]

    def restore(self, items, before):
        names = [name for name in before if name.endswith("lora_b")]
        columns = items[0].values.T
        return {
            n: before[n] + column[:, None, None] * self.direction(before[n])
            for n, column in zip(names, columns, strict=True)
        }


FEW, MANY, RANKS, SIGNS, PROJECTED = Top(10), Top(20), Ranks(), Signs(), Projected()
'''
LAYERS = [f"bert.encoder.layer.{n}.attention.self.{m}" for n in (0, 1) for m in ("query", "value")]


@pytest.fixture(autouse=True)
def _installed(tmp_path, monkeypatch):
    names = ("few", "many", "ranks", "signs", "projected")
    install(tmp_path, monkeypatch, "ffalora.methods", TOYS, names)


def top(kept):
    def sent(update):
        out, places = np.zeros(update.size), np.argsort(-np.abs(update).ravel())[:kept]
        out[places] = update.ravel()[places]
        return out.reshape(update.shape)

    return sent


def two_columns(update):
    return update * (np.argsort(np.argsort(-np.linalg.norm(update, axis=0))) < 2)


def signs(update):
    return np.where(update > 0, 1, -1) * np.abs(update).mean()


def projected(update):
    generator = torch.Generator().manual_seed(7)
    direction = torch.randn(update.shape, generator=generator).double().numpy()
    return (update * direction).sum() * direction


# B is [32, 4] at four sites. (float64 oracle of one update, header of an item, bytes by kind)
SENT = {
    "few": (top(10), '["sparse","{}","adapter","float32",[10,32,4]]', 4 * 10, 9),  # 7-bit ids
    "many": (top(20), '["sparse","{}","adapter","float32",[20,32,4]]', 4 * 20, 16),  # a bitmap
    "ranks": (two_columns, '["rows","{}","adapter","float32",[2,2,32,4]]', 4 * 32 * 2, 1),
    "signs": (signs, '["bits","{}","adapter","float32",[1,32,4]]', 4 + 128 // 8, 0),
    "projected": (projected, "", 4, 0),
}


@pytest.mark.parametrize("privacy", [NONE, EXAMPLE], ids=["open", "private"])
@pytest.mark.parametrize("name", SENT)
def test_what_is_sent_is_counted_and_combined(name, privacy):
    oracle, header, values, index = SENT[name]
    sim = federate(name, privacy)
    planned = rehearse(sim).communication
    trained = {}
    train = sim.engine.train

    def keep(job):
        result = train(job)
        trained.update({n: v.double().numpy() for n, v in result.trained.items()})
        return result

    sim.engine.train = keep
    for round in (1, 2):
        before = {n: v.double().numpy() for n, v in sim.state.tensors.items()}
        assert not sim.play(round).rejected
        assert len(trained) == 4
        for tensor, values_of in trained.items():
            start = before.get(tensor, np.zeros((32, 4)))
            expected = start + np.tensordot(SIZES / 64, [oracle(v - start) for v in values_of], 1)
            assert np.abs(sim.state.tensors[tensor].numpy() - expected).max() < 1e-6
        items = [header.format(f"{n}.lora_b") for n in LAYERS]
        items = items if header else ['["scalars","projected","adapter","float32",[4]]']
        text = ",".join(['["tag","upload","framing","uint64",[]]', *items])
        bytes_of = {"framing": 10 + len(f"[{text}]") + 8, "adapter": 4 * values}
        bytes_of |= {"index": 4 * index} if index else {}
        (up,) = [r for r in sim.communication.rows(round) if r["direction"] == "uplink"]
        assert up["clients"] is None and up["bytes"] == bytes_of
        assert up in planned.rows(round)


def spoilt(change):
    """The second item of client 3's payload through ``change``."""

    def corrupt(round, client, sent):
        if client != 3:
            return sent
        first, item, *others = unpack(sent)
        return pack([first, change(item), *others], "float32").client_bytes(0)

    return corrupt


def replaced(item, **fields):
    return type(item)(**(vars(item) | fields))


BAD = {
    "one place fewer": (
        "few",
        lambda i: replaced(i, values=i.values[:, 1:], index=i.index[:, 1:]),
        "shape",
    ),
    "another tensor's places": ("few", lambda i: replaced(i, shape=(64, 4)), "shape"),
    "all of it": ("few", lambda i: Dense(i.name, i.kind, i.dense()), "names"),
    "an infinite value": ("few", lambda i: replaced(i, values=i.values / 0), "nonfinite"),
    "another axis": (
        "ranks",
        lambda i: replaced(i, values=torch.zeros(1, 2, 4), axis=0),
        "shape",
    ),
    "two bits": ("signs", lambda i: replaced(i, width=2), "shape"),
    "no scale": ("signs", lambda i: replaced(i, scale=i.scale * torch.nan), "nonfinite"),
    "one more number": ("projected", lambda i: replaced(i, values=torch.zeros(1, 5)), "shape"),
}


@pytest.mark.parametrize("case", BAD)
def test_another_part_than_the_method_sends_is_refused(case):
    name, change, reason = BAD[case]
    sim = federate(name)
    sim.corrupt = spoilt(change)
    assert [dict(r) for r in sim.play(1).rejected] == [{"client": 3, "reason": reason}]


def test_items_are_the_tensors_they_say():
    values = torch.tensor([[5.0, -6.0], [7.0, 8.0]])
    sparse = Sparse("x", "adapter", values, torch.tensor([[1, 5], [0, 2]]), (2, 3))
    assert sparse.dense().tolist() == [[[0, 5, 0], [0, 0, -6]], [[7, 0, 8], [0, 0, 0]]]
    rows = Rows("x", "adapter", values[:, :, None], torch.tensor([[0, 2], [1, 2]]), (3, 1))
    assert rows.dense().tolist() == [[[5], [0], [-6]], [[0], [7], [8]]]
    codes = torch.tensor([[0, 1, 2, 3]], dtype=torch.uint8)
    bits = Bits("x", "adapter", codes, torch.tensor([3.0]), 2)
    assert bits.dense().tolist() == [[-3, -1, 1, 3]]
