"""Bad uploads x combination rules. Each is left out, named, charged, and changes nothing."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch

from ffalora_cli.config.errors import RunFailed
from ffalora_cli.federation.wire.contract import REASONS
from ffalora_cli.federation.wire.payload import pack, unpack
from ffalora_cli.types import Dense, LowRankMerge, Tag
from tests.arrivals import CLIENT, CLIENTS, EXAMPLE, SIZES, federate

BAD = 3
RULES = ("mean", "median", "trimmed_mean", "krum", "multi_krum", "norm_bound")
EARLIER: dict[int, bytes] = {}  # what the bad client sent in round 1


def rewritten(change, wire="float32"):
    """Decode, change the list of items, encode again."""

    return lambda sent: pack(change(list(unpack(sent))), wire).client_bytes(0)


def with_values(change):
    """All dense values through ``change``."""
    return rewritten(
        lambda items: [
            Dense(i.name, i.kind, change(i.values.clone())) if isinstance(i, Dense) else i
            for i in items
        ]
    )


def one(value):
    """A single value of the last tensor replaced."""

    def change(items):
        last = items[-1]
        values = last.values.clone()
        values[0, -1, -1] = value
        return [*items[:-1], Dense(last.name, last.kind, values)]

    return rewritten(change)


def last(change):
    """The last tensor through ``change``."""
    return rewritten(lambda items: [*items[:-1], change(items[-1])])


def reshaped(*shape):
    return last(lambda i: Dense(i.name, i.kind, torch.zeros(1, *shape)))


def renamed(name, kind="adapter"):
    return last(lambda i: Dense(name or i.name, kind, i.values))


def tagged(round=None, client=None):
    def change(items):
        tag = items[0]
        other = Tag(
            tag.round if round is None else np.array([round]),
            tag.client if client is None else np.array([client]),
        )
        return [other, *items[1:]]

    return rewritten(change)


def grown_header(sent: bytes) -> bytes:
    """A tensor of 2^31 - 1 squared elements announced, none sent."""
    entries = [["dense", "x", "adapter", "float32", [2**31 - 1, 2**31 - 1]]]
    text = json.dumps(entries).encode()
    return sent[:6] + len(text).to_bytes(4, "little") + text


SIZE = Dense("num_examples", "index", torch.tensor([1e9]))
MERGE = LowRankMerge("x", torch.ones(4, 1), torch.ones(1, 4))

UPLOADS = {
    "one NaN": (one(torch.nan), "nonfinite"),
    "one infinity": (one(torch.inf), "nonfinite"),
    "one minus infinity": (one(-torch.inf), "nonfinite"),
    "all NaN": (with_values(lambda v: v * torch.nan), "nonfinite"),
    "1e30": (with_values(lambda v: v * 0 + 1e30), "norm"),
    "largest float": (with_values(lambda v: v * 0 + torch.finfo(v.dtype).max), "norm"),
    "a thousand times itself": (with_values(lambda v: 1000 * v), "norm"),
    "a thousand times backwards": (with_values(lambda v: -1000 * v), "norm"),
    "a shape that broadcasts": (reshaped(1), "shape"),
    "a scalar": (reshaped(), "shape"),
    "a flat tensor": (last(lambda i: Dense(i.name, i.kind, i.values.flatten(1))), "shape"),
    "a transposed tensor": (last(lambda i: Dense(i.name, i.kind, i.values.mT)), "shape"),
    "another dtype": (rewritten(lambda items: items, "bfloat16"), "dtype"),
    "a missing tensor": (rewritten(lambda items: items[:-1]), "names"),
    "no tensors": (rewritten(lambda items: items[:1]), "names"),
    "a renamed tensor": (renamed("head.weight"), "names"),
    "an adapter as head": (renamed("", "head"), "names"),
    "a lied-about size": (rewritten(lambda items: [*items, SIZE]), "names"),
    "a smuggled merge": (rewritten(lambda items: [*items, MERGE]), "names"),
    "no tag": (rewritten(lambda items: items[1:]), "names"),
    "another order": (rewritten(lambda i: [i[0], i[2], i[1], *i[3:]]), "order"),
    "last round's upload": (lambda sent: EARLIER[BAD], "round"),
    "a future round": (tagged(round=2**31), "round"),
    "another client's name": (tagged(client=0), "client"),
    "cut short": (lambda sent: sent[:-1], "unreadable"),
    "one byte more": (lambda sent: sent + b"\0", "unreadable"),
    "nothing": (lambda sent: b"", "unreadable"),
    "noise": (lambda sent: np.random.default_rng(0).bytes(len(sent)), "unreadable"),
    "a pickle": (lambda sent: pickle.dumps(REASONS["norm"]), "unreadable"),
    "a header of petabytes": (grown_header, "unreadable"),
}


@pytest.fixture(scope="module", params=RULES)
def federation(request):
    """After one honest round under each rule; every case starts from that state."""
    bad = 1 if request.param in ("trimmed_mean", "krum", "multi_krum") else None
    sim = federate(privacy=EXAMPLE, combination=request.param, assumed_bad=bad)
    sim.corrupt = lambda round, client, sent: EARLIER.setdefault(client, sent)
    EARLIER.clear()
    sim.play(1)
    return sim, sim.state


def play_with(sim, state, change):
    """Round 2 from ``state`` with one spoilt upload; round 1 alone has been charged before it."""
    sim.state = state
    sim.privacy_ledger.steps_taken[:] = 2
    sim.corrupt = spoil(change)
    return sim.play(2)


def spoil(change):
    return lambda round, client, sent: change(sent) if client == BAD else sent


@pytest.mark.parametrize("case", UPLOADS)
def test_a_bad_upload_is_named_charged_and_without_effect(case, federation):
    sim, state = federation
    change, reason = UPLOADS[case]
    record = play_with(sim, state, change)
    assert record.rejected == ({"client": BAD, "reason": reason},)
    assert record.metrics["train/rejected_uploads"] == 1.0
    assert (sim.privacy_ledger.steps_taken == 4).all()
    result = sim.tensors
    assert all(torch.isfinite(value).all() for value in result.values())
    play_with(sim, state, lambda sent: b"")  # whatever it sent, the others' result is the same
    assert all(torch.equal(sim.tensors[name], value) for name, value in result.items())


def test_the_cases_meet_every_reason():
    assert {reason for _, reason in UPLOADS.values()} == set(REASONS)


def captured(sim, round):
    """What every client sent, float64 by name, from the bytes."""
    sent = {}
    sim.corrupt = lambda round, client, payload: sent.setdefault(client, payload)
    sim.play(round)
    return {
        client: {i.name: i.values[0].double().numpy() for i in unpack(payload)[1:]}
        for client, payload in sent.items()
    }


def test_weights_are_the_servers_own_and_renormalised_over_what_counts():
    sim = federate()
    uploads = captured(sim, 1)
    honest = [client for client in range(CLIENTS) if client != BAD]
    sim = federate()
    sim.corrupt = spoil(one(torch.nan))
    sim.play(1)
    weights = SIZES[honest] / SIZES[honest].sum()
    for name in uploads[0]:
        expected = np.tensordot(weights, [uploads[c][name] for c in honest], axes=1)
        assert np.abs(sim.tensors[name].numpy() - expected).max() < 1e-7


@pytest.mark.parametrize("method", ["fedex_lora", "fedsvd", "fedsa_lora", "rolora", "lora"])
def test_every_method_leaves_a_bad_upload_out(method):
    sim = federate(method)
    sim.corrupt = spoil(one(torch.nan))
    for record in sim.rounds():
        assert [dict(r) for r in record.rejected] == [{"client": BAD, "reason": "nonfinite"}]
    assert all(torch.isfinite(value).all() for value in sim.tensors.values())


def test_honest_rounds_reject_nobody():
    """False alarms are worse than misses: unequal noise, both factors, alternating rounds."""
    for method in ("ffa_lora", "lora", "rolora", "fedsa_lora", "fedsvd", "fedex_lora"):
        sim = federate(method, privacy=EXAMPLE, local_batch_size=9)
        assert sum(r.metrics["train/rejected_uploads"] for r in sim.rounds()) == 0


def test_a_fixed_limit_counts_for_every_client_alone():
    sim = federate()
    uploads = captured(sim, 1)
    zero = {name: sim.network.initial[name].double().numpy() for name in uploads[0]}
    lengths = np.array(
        [np.sqrt(sum(((v - zero[n]) ** 2).sum() for n, v in uploads[c].items())) for c in uploads]
    )
    bound = float(np.sort(lengths)[3]) * (1 + 1e-6)
    record = federate(max_upload_norm=bound).play(1)
    assert {r["client"] for r in record.rejected} == set(np.flatnonzero(lengths > bound).tolist())
    assert {r["reason"] for r in record.rejected} == {"norm"}
    assert len(record.rejected) == 3


def test_too_few_usable_uploads_end_the_run_and_keep_the_last_model():
    sim = federate(min_clients=6)
    sim.corrupt = lambda round, client, sent: one(torch.nan)(sent) if client < round else sent
    sim.play(1)
    kept = sim.state
    with pytest.raises(RunFailed, match=r"round 2: 5 usable.*min_clients=6.*client 0: it h"):
        sim.play(2)
    assert sim.state is kept
    everybody = federate(min_clients=0)
    everybody.corrupt = lambda round, client, sent: b""
    before = everybody.tensors
    assert len(everybody.play(1).rejected) == CLIENTS
    assert all(torch.equal(everybody.tensors[n], v) for n, v in before.items())


def test_under_client_level_privacy_a_rejected_upload_counts_as_zero():
    """The denominator and the noise stay; what is left out is one clipped update."""
    settings = {"privacy": CLIENT, "weights": "uniform"}
    sim = federate(**settings)
    uploads = captured(sim, 1)
    whole = sim.tensors
    sim = federate(**settings)
    before = sim.tensors
    sim.corrupt = spoil(one(torch.inf))
    assert len(sim.play(1).rejected) == 1
    update = {n: v - before[n].double().numpy() for n, v in uploads[BAD].items()}
    length = np.sqrt(sum((v**2).sum() for v in update.values()))
    share = min(1.0, 0.05 / length) / CLIENTS
    for name, value in update.items():
        gap = (whole[name] - sim.tensors[name]).double().numpy()
        assert np.abs(gap - share * value).max() < 1e-7
    huge = federate(**settings)
    huge.corrupt = spoil(with_values(lambda v: v * 0 + 1e30))  # clipped, not compared with others
    assert huge.play(1).rejected == ()


def test_a_model_that_overflows_is_not_taken_over():
    sim = federate(max_upload_norm=1e39)
    sim.corrupt = lambda round, client, sent: (
        with_values(lambda v: v * 0 + 3e36)(sent) if round == 2 else sent
    )
    sim.play(1)
    kept = sim.state
    server = sim.config.server_optimizer
    object.__setattr__(server, "lr", 1e3)
    try:
        with pytest.raises(RunFailed, match=r"round 2: .*lora_b.*not finite; the model of round 1"):
            sim.play(2)
    finally:
        object.__setattr__(server, "lr", 1.0)
    assert sim.state is kept
