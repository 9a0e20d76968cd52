"""Whole rounds on a tiny model: what moves, what stays, what is counted, what is charged."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from ffalora_cli import keys
from ffalora_cli.config.schema import (
    HeadConfig,
    PrivacyConfig,
)
from ffalora_cli.data.partition.partition import ClientRows
from ffalora_cli.engine.build import build_engine
from ffalora_cli.federation import round as round_module
from ffalora_cli.federation.roles import covered_names
from ffalora_cli.federation.simulation import Simulation
from ffalora_cli.methods import registry
from ffalora_cli.privacy.accounting.sampling import uses
from ffalora_cli.privacy.ledger import PrivacyLedger
from ffalora_cli.privacy.planning.make import make_plan
from tests import arrivals
from tests.tiny import TinyExamples, tiny_network

FEDERATION = dataclasses.replace(arrivals.FEDERATION, num_clients=4, rounds=5)
PRIVATE = PrivacyConfig("row", None, 1e-5, 0.5, 0.3, "rdp", "per_client", "reproducible")
OFFSETS = np.array([0, 20, 32, 40, 64])  # unequal clients


def simulate(
    method="ffa_lora",
    head="frozen",
    private=True,
    federation=FEDERATION,
    privacy=PRIVATE,
    network=None,
    secret=b"s" * 32,
    engine="stacked",
):
    network = network or tiny_network("bert")
    examples = TinyExamples(64)
    method = registry.get(method)
    head = HeadConfig(head, 0.2, 0)
    clients = ClientRows(np.arange(64), OFFSETS)
    plan = None
    if private:
        covered = covered_names(network, method, head)
        plan = make_plan(privacy, clients.sizes, federation, covered)
    return Simulation(
        method=method,
        network=network,
        engine=build_engine(engine, network, examples, 64),
        clients=clients,
        config=federation,
        head=head,
        seeds={"adapter": 0, "head": 0},
        seed=0,
        secret=secret,
        plan=plan,
        privacy_ledger=PrivacyLedger(plan.noise_multiplier, plan.accounted_rate) if plan else None,
    )


def changed(sim):
    """Names of global tensors that are no longer as initialised."""
    return {
        name
        for name, value in sim.tensors.items()
        if not torch.equal(value, sim.network.initial[name])
    }


def merged(tensors, network):
    """scale * B @ A of every site."""
    return {
        s.name: network.scale * tensors[f"{s.name}.lora_b"] @ tensors[f"{s.name}.lora_a"]
        for s in network.sites
    }


@pytest.mark.parametrize("engine", ["stacked", "reference"])
def test_ffa_keeps_a_and_head_to_the_bit(engine):
    sim = simulate(engine=engine)
    weights = {n: p.clone() for n, p in sim.network.model.named_parameters()}
    list(sim.rounds())
    assert sim.state.round == 5
    assert changed(sim) == {f"{s.name}.lora_b" for s in sim.network.sites}
    for name, parameter in sim.network.model.named_parameters():
        assert torch.equal(parameter, weights[name])


def test_lora_moves_both_factors_and_a_trained_head_moves_too():
    sim = simulate("lora", head="trained")
    list(sim.rounds())
    assert changed(sim) == set(sim.tensors)


@pytest.mark.parametrize("name", registry.names())
@pytest.mark.parametrize("head", ["frozen", "trained", "personal"])
def test_every_method_runs_a_private_federation(name, head):
    sim = simulate(name, head=head)
    records = list(sim.rounds())
    assert all(torch.isfinite(v).all() for v in sim.tensors.values())
    assert sim.privacy_ledger.steps_taken.tolist() == [10] * 4
    assert changed(sim).isdisjoint(sim.personal)
    up = [r.metrics["comm/uplink_bytes"] for r in records]
    assert min(up) > 0
    stored = sim.client_states.gather(np.arange(4), sim.personal, sim.network.initial)
    for values in stored.values():
        assert len(torch.unique(values.flatten(1), dim=0)) == 4  # everybody's own


def test_same_secret_same_bits_other_secret_other_bits():
    one, two, other = simulate(), simulate(), simulate(secret=b"t" * 32)
    for sim in (one, two, other):
        list(sim.rounds())
    for name, value in one.tensors.items():
        assert torch.equal(value, two.tensors[name])
    assert any(not torch.equal(v, other.tensors[n]) for n, v in one.tensors.items())


def test_stopping_and_going_on_is_the_same_run():
    """Nothing but the state crosses a round: keys replace generator states."""
    whole, part = simulate("fedsa_lora"), simulate("fedsa_lora")
    list(whole.rounds())
    for round in (1, 2):
        part.play(round)
    rest = simulate("fedsa_lora")
    rest.state, rest.client_states = part.state, part.client_states
    list(rest.rounds())
    for name, value in whole.tensors.items():
        assert torch.equal(value, rest.tensors[name])


@pytest.mark.parametrize("name", ["ffa_lora", "lora", "fedex_lora", "fedsa_lora"])
def test_chunks_of_a_cohort_change_only_rounding(name, monkeypatch):
    whole = simulate(name)
    list(whole.rounds())
    monkeypatch.setattr(round_module, "CHUNK_BYTES", 1)  # one client at a time
    chunked = simulate(name)
    list(chunked.rounds())
    for n, value in whole.tensors.items():
        torch.testing.assert_close(chunked.tensors[n], value, rtol=1e-4, atol=1e-6)


def test_mean_of_products_is_product_of_means_only_for_ffa():
    gaps = {}
    for name in ("ffa_lora", "lora"):
        sim = simulate(name, private=False)
        sim.play(1)
        before, seen = dict(sim.tensors), []
        sim.play(2, arrivals.keeping(sim, seen))
        trained = seen[0][1].trained
        sizes = np.diff(OFFSETS) / 64
        mean_of_products = {s.name: 0.0 for s in sim.network.sites}
        for client in range(4):
            own = before | {n: v[client] for n, v in trained.items()}
            for site, product in merged(own, sim.network).items():
                mean_of_products[site] = mean_of_products[site] + sizes[client] * product
        found = merged(sim.tensors, sim.network)
        gaps[name] = max(float((found[s] - mean_of_products[s]).abs().max()) for s in found)
    assert gaps["ffa_lora"] < 1e-6 < 1e-4 < gaps["lora"]


@pytest.mark.parametrize(
    ("optimizer", "lr_factor"), [("sgd", 1 / 4), ("adamw", 1 / 2)], ids=["sgd", "adam"]
)
def test_alpha_is_a_learning_rate_and_a_clip(optimizer, lr_factor):
    """alpha x 2 with lr / 4 (Adam: / 2) and C x 2 gives the same products, noise included."""
    products = []
    for alpha, lr, clip in [(8.0, 0.5, 0.3), (16.0, 0.5 * lr_factor, 0.6)]:
        if optimizer == "adamw":
            lr /= 50
        federation = dataclasses.replace(FEDERATION, local_optimizer=optimizer, local_lr=lr)
        privacy = dataclasses.replace(PRIVATE, max_grad_norm=clip)
        sim = simulate(
            federation=federation, privacy=privacy, network=tiny_network("bert", alpha=alpha)
        )
        list(sim.rounds())
        products.append(merged(sim.tensors, sim.network))
    for site, product in products[0].items():
        assert float(product.abs().max()) > 1e-3
        tolerance = 1e-5 if optimizer == "sgd" else 1e-4  # 1e-6 in the clip, 1e-8 in Adam
        gap = float((products[1][site] - product).norm() / product.norm())
        assert gap < tolerance


def test_partial_participation_charges_only_who_took_part():
    federation = dataclasses.replace(FEDERATION, cohort_size=2, cohort_sampling="fixed", rounds=12)
    sim = simulate(federation=federation)
    taken = np.zeros(4, int)
    for record in sim.rounds():
        ids = [line["client"] for line in record.clients]
        assert len(ids) == 2
        taken[ids] += 2
    assert taken.tolist() == sim.privacy_ledger.steps_taken.tolist()
    assert (taken <= sim.plan.planned_steps).all()


def test_nobody_passes_the_planned_steps():
    federation = dataclasses.replace(FEDERATION, cohort_size=2, cohort_sampling="fixed", rounds=8)
    sim = simulate(federation=federation)
    sim.plan = dataclasses.replace(sim.plan, planned_steps=np.array([4, 4, 2, 2]))
    records = list(sim.rounds())
    assert sim.privacy_ledger.steps_taken.tolist() == [4, 4, 2, 2]
    # nobody is left: the run ends instead of idling through all eight rounds
    assert all(record.clients for record in records) and len(records) < 8
    assert sim.is_last(records[-1].round)


@pytest.mark.parametrize("sampling", ["fixed", "shuffled"])
def test_batches_of_the_unamplified_samplers(sampling):
    """Fixed: six rows a step. Shuffled: a row at most once an epoch, whatever rounds are missed."""
    federation = dataclasses.replace(FEDERATION, cohort_size=2, cohort_sampling="fixed", rounds=30)
    privacy = dataclasses.replace(PRIVATE, sampling=sampling, noise_multiplier=2.0)
    sim = simulate(federation=federation, privacy=privacy)
    drawn = {client: [] for client in range(4)}
    train = sim.engine.train

    def keep(job):
        for step in job.batches:
            for slot, client in enumerate(job.clients.tolist()):
                drawn[client].append(step.rows[step.slots == slot])
        return train(job)

    sim.engine.train = keep
    list(sim.rounds())
    for client, steps in drawn.items():
        assert len(steps) == sim.privacy_ledger.steps_taken[client]
        rows = sim.clients.of(client)
        batches_of_epoch = -(-len(rows) // 6)
        if sampling == "fixed":
            assert {len(set(step.tolist())) for step in steps} == {6}
            continue
        for epoch in range(0, len(steps), batches_of_epoch):
            used = np.concatenate(steps[epoch : epoch + batches_of_epoch])
            assert len(set(used.tolist())) == len(used)
            if epoch + batches_of_epoch <= len(steps):
                assert sorted(used.tolist()) == rows.tolist()
        most = np.unique(np.concatenate(steps), return_counts=True)[1].max()
        assert most <= uses(6 / len(rows), len(steps))


def test_client_level_release_is_clipped_noised_and_charged_to_everybody():
    privacy = dataclasses.replace(
        PRIVATE, unit="client", max_grad_norm=0.05, noise_multiplier=2.0, delta=1e-2
    )
    federation = dataclasses.replace(
        FEDERATION, cohort_size=2, cohort_sampling="poisson", rounds=6, weights="uniform"
    )
    sim = simulate(privacy=privacy, federation=federation)
    before = sim.tensors
    records = list(sim.rounds())
    assert sim.privacy_ledger.steps_taken.tolist() == [6] * 4
    sizes = [len(r.clients) for r in records]
    assert len(set(sizes)) > 1  # the cohort varies, the denominator does not
    moved = torch.cat([(sim.tensors[n] - before[n]).flatten() for n in sorted(changed(sim))])
    noise = 2.0 * 0.05 / 2 * np.sqrt(6)
    assert abs(float(moved.std()) / noise - 1) < 0.15


def test_an_uncovered_upload_is_refused():
    sim = simulate()
    sim.plan = dataclasses.replace(sim.plan, covered=())
    with pytest.raises(RuntimeError, match="not covered"):
        sim.play(1)


def test_bfloat16_on_the_wire_halves_the_bytes():
    exact = simulate(private=False)
    half = simulate(
        private=False, federation=dataclasses.replace(FEDERATION, wire_dtype="bfloat16")
    )
    for sim in (exact, half):
        list(sim.rounds())
    assert exact.communication.total("uplink", ["adapter"]) == 2 * half.communication.total(
        "uplink", ["adapter"]
    )
    for name, value in exact.tensors.items():
        torch.testing.assert_close(half.tensors[name], value, rtol=0.05, atol=0.02)


def test_fedex_puts_the_residual_into_the_base():
    sim = simulate("fedex_lora", private=False)
    list(sim.rounds())
    assert set(sim.state.base_delta) == {s.name for s in sim.network.sites}
    for site, delta in sim.state.base_delta.items():
        loaded = sim.network.plain.get_submodule(site).weight
        live = sim.network.model.get_submodule(site).base.weight
        torch.testing.assert_close(live, loaded + delta)
        assert float(delta.abs().max()) > 0


def test_keys_do_not_depend_on_the_cohort():
    """A client draws the same rows whether it trains alone or among others."""
    sim = simulate()
    together = round_module.batches_of(sim, None, 3, np.array([0, 1, 2, 3]))
    alone = round_module.batches_of(sim, None, 3, np.array([2]))
    for a, b in zip(together, alone, strict=True):
        assert np.array_equal(a.rows[a.slots == 2], b.rows)
    assert keys.derive(b"s" * 32, "poisson", 2, 3, 0) != keys.derive(b"s" * 32, "poisson", 2, 3, 1)
