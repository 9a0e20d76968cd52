"""Clients of ranks 2, 4 and 4, by methods added from outside the package by entry points."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from ffalora_cli.adapters.lora import FORM, LoRA
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.engine.build import build_engine
from ffalora_cli.engine.job import LocalJob
from ffalora_cli.federation.ranks import nested
from ffalora_cli.federation.rehearsal import rehearse
from ffalora_cli.types import Site, Stack
from tests.arrivals import CLIENT, EXAMPLE, NONE, federate, keeping
from tests.entry_points import install
from tests.tiny import TinyExamples, tiny_network

TOYS = '''
import numpy as np

from ffalora_cli.methods.base import Exchange, Method


class Ranks(Method):
    """FedIT of clients with ranks of their own."""

    name = "both"

    def ranks(self, num_clients, rank, options):
        return np.array([2] + [4] * (num_clients - 1))


class OneFactor(Ranks):
    """The same with a frozen A."""

    name = "one"
    cycle = ((Exchange(("lora_b",)),),)


class Kept(Ranks):
    """The same with a B that stays at home."""

    name = "kept"
    cycle = ((Exchange(("lora_a", "lora_b"), kept=("lora_b",)),),)


class TooHigh(Ranks):
    name = "high"

    def ranks(self, num_clients, rank, options):
        return np.full(num_clients, rank + 1)


BOTH, ONE, KEPT, HIGH = Ranks(), OneFactor(), Kept(), TooHigh()
'''
LOCAL = dataclasses.replace(CLIENT, client_noise="local")
FACTORS = {"both": ("lora_a", "lora_b"), "one": ("lora_b",), "kept": ("lora_a",)}
TRAINED = FACTORS | {"kept": ("lora_a", "lora_b")}


@pytest.fixture(autouse=True)
def _installed(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "ffalora.methods", TOYS, ("both", "one", "kept", "high"))


def corner(name, values):
    """The rank-2 part of ``[..., m, k]``."""
    return values[..., :2, :] if name.endswith("lora_a") else values[..., :2]


def alone(job: LocalJob, slot: int) -> Stack:
    """One client of a job trained by itself, on a network of its own rank."""
    rank = 2 if job.clients[slot] == 0 else 4
    own = corner if rank == 2 else (lambda name, values: values)
    network = tiny_network("bert", rank=rank, alpha=2.0 * rank)  # the same scale
    mine = slice(slot, slot + 1)
    privacy = job.privacy
    if privacy is not None:
        noise, batch = privacy.noise_sd[mine], privacy.expected_batch[mine]
        privacy = dataclasses.replace(privacy, noise_sd=noise, expected_batch=batch)
    batches = [
        dataclasses.replace(
            b,
            slots=np.zeros(int((b.slots == slot).sum()), np.int64),
            rows=b.rows[b.slots == slot],
            units=None if b.units is None else b.units[b.slots == slot],
        )
        for b in job.batches
    ]
    start = {n: own(n, v[mine]) for n, v in job.start.items()}
    changed = {"clients": job.clients[mine], "batches": batches, "start": start}
    work = dataclasses.replace(job, **changed, privacy=privacy, extents=None)
    return build_engine("stacked", network, TinyExamples(64), 64).train(work).trained


@pytest.mark.parametrize("privacy", [NONE, EXAMPLE], ids=["open", "private"])
@pytest.mark.parametrize("method", FACTORS)
def test_every_client_trains_as_if_alone_at_its_own_rank(method, privacy):
    sim, seen = federate(method, privacy), []
    planned = rehearse(sim).communication
    answer = keeping(sim, seen)
    for round in (1, 2):
        sim.play(round, answer)
    jobs = [pair for pair in seen if isinstance(pair, tuple)]
    assert len(jobs) == 2  # all clients in one pass
    reference = build_engine("reference", sim.network, TinyExamples(64), 64)
    for job, result in jobs:
        slow = reference.train(job).trained
        for name, values in result.trained.items():
            assert torch.allclose(slow[name], values, atol=1e-5)
            assert torch.equal(values[0].count_nonzero(), corner(name, values[0]).count_nonzero())
        for slot in (0, 1, 6):
            for name, values in alone(job, slot).items():
                whole = result.trained[name][slot]
                own = corner(name, whole) if slot == 0 else whole
                assert torch.allclose(values[0], own, atol=1e-5)
                assert float((own - job.start[name][slot][tuple(map(slice, own.shape))]).norm()) > 0
    # A [r, 32], B [32, r] at four sites, four bytes an element; one row for each rank.
    size = 4 * 4 * 32 * len(FACTORS[method])
    for round in (1, 2):
        rows = sim.communication.rows(round)
        up = [row for row in rows if row["direction"] == "uplink"]
        assert [row["clients"] for row in up] == [[0], [1, 2, 3, 4, 5, 6]]
        assert [row["bytes"]["adapter"] for row in up] == [2 * size, 4 * size]
        down = [row for row in rows if row["direction"] == "downlink"]
        assert [row["bytes"].get("adapter", 0) for row in down] == (
            [0, 0] if round == 1 else [2 * size, 4 * size]
        )
        assert rows == planned.rows(round)


def test_the_server_takes_zero_for_what_a_client_does_not_have():
    sim, seen = federate("both"), []
    sim.play(1, keeping(sim, seen))
    (_, result), *_ = seen
    sizes = sim.clients.sizes / sim.clients.sizes.sum()
    for name, values in result.trained.items():
        expected = np.tensordot(sizes, values.double().numpy(), 1)
        assert np.abs(sim.state.tensors[name].numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("privacy", [CLIENT, LOCAL], ids=["central", "local"])
def test_privacy_of_whole_clients_plays_with_ranks(privacy):
    sim = federate("both", privacy, weights="uniform")
    seen = []
    for round in (1, 2):
        assert not sim.play(round, keeping(sim, seen)).rejected
    assert all(torch.isfinite(v).all() for v in sim.state.tensors.values())


def test_equal_ranks_are_the_path_without():
    plain, same = federate("lora", EXAMPLE), federate("both", EXAMPLE)
    same.ranks = np.full(7, 4)
    for sim in (plain, same):
        sim.play(1)
        sim.play(2)
    assert all(torch.equal(v, same.state.tensors[n]) for n, v in plain.state.tensors.items())
    assert plain.communication.rows() == same.communication.rows()


def test_ranks_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match=r"ranks from 5 to 5.*set adapter.rank"):
        federate("high")


def test_a_form_whose_ranks_are_not_nested_is_refused(monkeypatch):
    """One factor alone: what is beyond a client's rank has a gradient, and no noise."""

    class Alone(LoRA):
        def dense(self, factors, scale):
            return scale * factors["lora_b"].sum(1)[:, None].expand(-1, 5)

    site = Site("layer", 5, 7)
    assert nested(FORM, site, 2, 4) and not nested(Alone(), site, 2, 4)
    monkeypatch.setattr(LoRA, "dense", Alone.dense)
    with pytest.raises(ConfigError, match=r"adapter.form=lora has no smaller ranks"):
        federate("both")
