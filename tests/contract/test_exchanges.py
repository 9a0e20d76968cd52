"""Methods beyond one exchange a round, added from outside the package by an entry point."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from ffalora_cli.cli.main import main
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError, RunFailed
from ffalora_cli.federation import round as round_module
from ffalora_cli.federation.rehearsal import rehearse
from ffalora_cli.federation.snapshot import restore, snapshot
from ffalora_cli.federation.wire.payload import unpack
from ffalora_cli.methods import registry
from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.types import Dense, Seed
from tests.arrivals import CLIENT, CLIENTS, EXAMPLE, NONE, federate, keeping
from tests.entry_points import install

TOYS = '''
from ffalora_cli.methods.base import Exchange, Method
from ffalora_cli.types import ServerUpdate


class Halves(Method):
    """Train and combine B, then, in the same round, A with the new B."""

    name = "halves"
    cycle = ((Exchange(("lora_b",)), Exchange(("lora_a",))),)


class Redrawn(Method):
    """B under an A that is drawn anew after every round: eight bytes instead of the tensors."""

    name = "redrawn"
    cycle = ((Exchange(("lora_b",)),),)

    def aggregate(self, state, mean, uploads, weights, context):
        return ServerUpdate(mean, seeds={"lora_a": context.seed + context.round})


class Own(Method):
    """A is common; every client's B comes back half way to the mean, each its own."""

    name = "own"
    linear = False
    cycle = ((Exchange(("lora_a", "lora_b"), own=("lora_b",)),),)

    def aggregate(self, state, mean, uploads, weights, context):
        common = {n: v for n, v in mean.items() if n.endswith("lora_a")}
        own = {n: (v + mean[n]) / 2 for n, v in uploads.items() if n.endswith("lora_b")}
        return ServerUpdate(common, own=own)


class Three(Method):
    """Phases of three rounds."""

    name = "three"
    cycle = ((Exchange(("lora_b",)),), (Exchange(("lora_b",)),), (Exchange(("lora_a",)),))


HALVES, REDRAWN, OWN, THREE = Halves(), Redrawn(), Own(), Three()
'''


@pytest.fixture(autouse=True)
def _installed(tmp_path, monkeypatch):
    names = ("halves", "redrawn", "own", "three")
    install(tmp_path, monkeypatch, "ffalora.methods", TOYS, names)


def sent_items(sim, monkeypatch):
    """Everything that is packed in a run, as (items, bytes of one client)."""
    sent, pack = [], round_module.pack

    def keep(items, wire_dtype):
        packed = pack(items, wire_dtype)
        sent.append((list(items), packed.bytes_per_client))
        return packed

    monkeypatch.setattr(round_module, "pack", keep)
    return sent


def test_a_new_method_is_found(capsys):
    assert {"halves", "redrawn", "own", "three"} <= set(registry.names())
    assert main(["ls", "methods"]) == 0
    assert "halves (not of ffalora): method.name=halves" in capsys.readouterr().out
    assert registry.get("halves").personal == () and registry.get("own").personal == ("lora_b",)


def test_two_exchanges_cost_twice_the_local_steps():
    """Epsilon is that of one exchange of twice the steps, by the plan and by the accountant."""
    twice, long = (
        federate("halves", EXAMPLE, rounds=3),
        federate("ffa_lora", EXAMPLE, rounds=3, local_steps=4),
    )
    for sim in (twice, long):
        list(sim.rounds())
        assert sim.plan.steps_per_round == 4
        assert sim.privacy_ledger.steps_taken.tolist() == [12] * CLIENTS
    assert (twice.plan.epsilon_planned == long.plan.epsilon_planned).all()
    rate, rdp = float(twice.plan.sample_rate[3]), twice.plan.accountant
    expected = Accountant("rdp", rdp.delta).epsilon([(EXAMPLE.noise_multiplier, rate, 12)])
    assert twice.plan.epsilon_planned[3] == pytest.approx(expected)
    assert len(twice.plan.covered) == 2 * len(twice.network.sites)
    assert {row["exchange"] for row in twice.communication.rows() if "exchange" in row} == {1}


def test_the_second_exchange_trains_a_with_the_new_b_on_other_rows_and_noise():
    sim = federate("halves", EXAMPLE, rounds=1)
    seen = []
    sim.play(1, keeping(sim, seen))
    (first, _), _, (second, _), _ = seen
    assert all(n.endswith("lora_b") for n in first.trainable)
    assert all(n.endswith("lora_a") for n in second.trainable)
    for name in first.trainable:
        assert torch.equal(second.common[name], sim.tensors[name])
        assert not torch.equal(second.common[name], first.start[name][0])
    assert first.privacy.secret != second.privacy.secret != sim.secret == first.privacy.secret
    assert any(
        not np.array_equal(a.rows, b.rows)
        for a, b in zip(first.batches, second.batches, strict=True)
    )


def test_shuffled_epochs_go_on_over_both_exchanges():
    """A row is used at most once an epoch, whichever exchange its steps are in."""
    shuffled = dataclasses.replace(EXAMPLE, sampling="shuffled")
    sim = federate("halves", shuffled, local_steps=1)
    sim.privacy_ledger.charge(1, np.arange(1), sim.plan.steps_per_round)
    first, second = (
        round_module.batches_of(sim, sim.privacy_ledger, number, np.arange(1))[0].rows
        for number in (1, 2)
    )  # six rows of the client's twelve in each
    assert sorted([*first, *second]) == list(range(12))


def test_an_own_upload_begins_with_what_was_noised_before():
    """A client whose upload came too late trains on from it as it left, not as it was."""
    local = dataclasses.replace(CLIENT, client_noise="local", max_grad_norm=1e-6)
    sim, seen = federate("own", local, weights="uniform", straggler_rate=0.999), []
    sim.play(1, keeping(sim, seen))
    kept = sim.client_states.gather(np.arange(CLIENTS), sim.personal, sim.network.initial)
    (_, result), receipt = seen
    assert not receipt.accepted.any()
    for name, value in kept.items():  # clip and noise are about 1e-6, what was learnt is not
        assert float((result.trained[name] - sim.network.initial[name]).norm()) > 1e-3
        assert float((value - sim.network.initial[name]).norm()) < 1e-3


def test_what_is_handed_to_a_client_is_finite(monkeypatch):
    sim = federate("own", NONE, rounds=1)
    made = sim.method.aggregate

    def broken(*given):
        update = made(*given)
        return dataclasses.replace(update, own={n: v * torch.nan for n, v in update.own.items()})

    monkeypatch.setattr(type(sim.method), "aggregate", lambda self, *given: broken(*given))
    with pytest.raises(RunFailed, match="not finite"):
        sim.play(1)


def test_central_noise_covers_sums_not_single_uploads():
    words = ["method.name=own", "privacy=client", "federation.weights=uniform"]
    with pytest.raises(ConfigError, match=r"reads single uploads.*client_noise=local"):
        plan(words)
    assert plan([*words, "privacy.client_noise=local"])


@pytest.mark.parametrize("private", [EXAMPLE, NONE], ids=["private", "plain"])
def test_epochs_and_tags_go_on_in_the_second_exchange(private, monkeypatch):
    """Without example-level sampling the rows of an epoch are shared out over both exchanges."""
    sim = federate("halves", private, rounds=2)
    seen, receive = [], round_module.receive

    def keep(setting, state, number, *rest):
        seen.append(unpack(rest[1])[0].round.tolist())
        return receive(setting, state, number, *rest)

    monkeypatch.setattr(round_module, "receive", keep)
    list(sim.rounds())
    assert seen == [[number] * CLIENTS for number in (1, 2, 3, 4)]
    if private is NONE:
        draw = round_module.batches_of
        first, second = ([b.rows for b in draw(sim, None, n, np.arange(1))] for n in (1, 2))
        for epoch in (first, second):  # of the client's twelve rows, six a step
            assert sorted(np.concatenate(epoch).tolist()) == list(range(12))
        assert np.concatenate(first).tolist() != np.concatenate(second).tolist()


@pytest.mark.parametrize("method", ["halves", "redrawn", "own", "three"])
@pytest.mark.parametrize("changes", [{}, {"cohort_size": 3, "cohort_sampling": "fixed"}])
def test_bytes_are_those_sent_and_as_rehearsed(method, changes, monkeypatch):
    sim = federate(method, EXAMPLE, rounds=7, **changes)
    seen = rehearse(sim)
    sent = sent_items(sim, monkeypatch)
    list(sim.rounds())
    assert seen.communication.rows() == sim.communication.rows()
    down = [size for items, size in sent if not any(isinstance(i, Dense) for i in items)]
    assert down  # round 1: seeds alone
    by_group = [sum(row["bytes"].values()) for row in sim.communication.rows()]
    downlink = [
        sum(r["bytes"].values()) for r in sim.communication.rows() if r["direction"] == "downlink"
    ]
    assert sorted(size for _, size in sent) == sorted(downlink) and len(by_group) > len(downlink)


@pytest.mark.parametrize("method", ["halves", "redrawn", "own", "three"])
def test_leaps_count_as_playing_every_round_does(method):
    sim = federate(method, EXAMPLE, rounds=131)
    short, long = (rehearse(sim, leaps=some) for some in (True, False))
    assert len(short.communication.rows()) < len(long.communication.rows()) / 2
    for way in ("uplink", "downlink"):
        assert short.communication.total(way) == long.communication.total(way)
    assert short.state.versions == long.state.versions and short.rounds == long.rounds == 131


@pytest.mark.parametrize("method", ["halves", "redrawn", "own"])
def test_resumed_is_the_same_run(method):
    whole, part, rest = (federate(method, EXAMPLE, rounds=4) for _ in range(3))
    list(whole.rounds())
    for round in (1, 2):
        part.play(round)
    tensors, facts = snapshot(part)
    rows = part.communication.rows()
    restore(rest, tensors, json.loads(json.dumps(facts)), rows)
    rest.privacy_ledger = part.privacy_ledger
    list(rest.rounds())
    assert rest.communication.rows() == whole.communication.rows()
    for name, value in whole.tensors.items():
        assert torch.equal(value, rest.tensors[name])
    ours, theirs = (s.client_states.to_tensors() for s in (rest, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_redrawn_factor_is_a_seed_on_the_wire_and_on_disk(monkeypatch):
    sim = federate("redrawn", NONE, rounds=3)
    sent = sent_items(sim, monkeypatch)
    list(sim.rounds())
    (_, _, (items, _)) = sent
    seeds = [item for item in items if isinstance(item, Seed)]
    assert [(seed.name, seed.seed) for seed in seeds] == [("lora_a", 2)]
    assert all(i.name.endswith("lora_b") for i in items if isinstance(i, Dense))
    last = [row for row in sim.communication.rows(3) if row["direction"] == "downlink"]
    assert last[0]["bytes"]["seed"] == 8
    tensors, facts = snapshot(sim)
    assert not [name for name in tensors if name.endswith("lora_a")]
    for name, value in sim.network.draw(3).items():
        if name.endswith("lora_a"):
            assert torch.equal(sim.tensors[name], value)
            assert not torch.equal(value, sim.network.initial[name])
    other = federate("redrawn", NONE, rounds=3)
    other.network.draw = lambda seed: sim.network.draw(seed + 1)
    with pytest.raises(ConfigError, match=r"lora_a comes out of its seed as .* keep adapter\.seed"):
        restore(other, tensors, json.loads(json.dumps(facts)), ())


def test_own_results_reach_their_client_alone():
    sim = federate("own", NONE, rounds=1)
    seen = []
    sim.play(1, keeping(sim, seen))
    ids, ((_, result), _) = np.arange(CLIENTS), seen
    weights = sim.clients.sizes / sim.clients.sizes.sum()
    kept = sim.client_states.gather(ids, sim.personal, sim.network.initial)
    for name, value in kept.items():
        uploaded = result.trained[name].double()
        mean = torch.tensordot(torch.from_numpy(weights), uploaded, 1)
        torch.testing.assert_close(value, ((uploaded + mean) / 2).float())
        assert torch.equal(sim.tensors[name], sim.network.initial[name])
    down = [row for row in sim.communication.rows(1) if row["direction"] == "downlink"][1]
    assert down["bytes"]["adapter"] == 4 * sum(value[0].numel() for value in kept.values())


def test_one_cohort_is_not_amplified_twice():
    """Both sums of a round are of one drawn cohort: refused unless everybody takes part."""
    drawn = {"cohort_size": 3, "cohort_sampling": "poisson", "weights": "uniform"}
    with pytest.raises(ConfigError, match="2 exchanges of a round"):
        federate("halves", CLIENT, **drawn)
    whole = federate("halves", CLIENT, rounds=2, weights="uniform")
    list(whole.rounds())
    assert whole.privacy_ledger.steps_taken.tolist() == [4] * CLIENTS
    local = dataclasses.replace(CLIENT, client_noise="local")
    assert federate("halves", local, **drawn).plan.steps_per_round == 2


def test_rounds_of_one_cycle_are_alike():
    from ffalora_cli.methods.base import Exchange, Method

    one, two = (Exchange(("lora_b",)),), (Exchange(("lora_b",)), Exchange(("lora_a",)))
    with pytest.raises(TypeError, match="equally many exchanges"):
        type("Odd", (Method,), {"cycle": (one, two)})
    with pytest.raises(TypeError, match="uploads nothing"):
        type("Silent", (Method,), {"cycle": ((Exchange(("lora_b",), kept=("lora_b",)),),)})
    both = Exchange(("lora_a", "lora_b"), kept=("lora_b",))
    own = Exchange(("lora_b",), own=("lora_b",))
    with pytest.raises(TypeError, match="lora_b is kept, own or common, in all exchanges alike"):
        type("Mixed", (Method,), {"cycle": ((both, own),)})
