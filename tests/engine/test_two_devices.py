"""Whole simulations on a GPU that is only pretended: the server's state never leaves the CPU."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch

from ffalora_cli.config.schema import (
    AdapterConfig,
    HeadConfig,
    ServerOptimizerConfig,
)
from ffalora_cli.data.partition.partition import ClientRows
from ffalora_cli.engine.evaluate import predict
from ffalora_cli.engine.stacked.engine import StackedEngine
from ffalora_cli.federation.roles import covered_names
from ffalora_cli.federation.server import robust
from ffalora_cli.federation.simulation import Simulation
from ffalora_cli.federation.snapshot import restore, snapshot
from ffalora_cli.methods import registry
from ffalora_cli.models.backbone import Backbone
from ffalora_cli.models.network import build_network
from ffalora_cli.privacy.ledger import PrivacyLedger
from ffalora_cli.privacy.planning.make import make_plan
from ffalora_cli.tasks.text_classification import TASK
from tests import arrivals
from tests.engine.test_graphs import Recorder
from tests.pretended import CUDA, OnDevice, pretended_gpu
from tests.tiny import FAMILIES, TinyExamples, tiny_model

UNITS = {
    "none": arrivals.NONE,
    "example": arrivals.EXAMPLE,
    "client": arrivals.CLIENT,
    "client, local noise": dataclasses.replace(arrivals.CLIENT, client_noise="local"),
}
HEADS = ("frozen", "trained", "personal")
SERVERS = {
    "sgd": ServerOptimizerConfig("sgd", 1.0, 0.0, 0.99, 1e-3),
    "momentum": ServerOptimizerConfig("sgd", 0.5, 0.9, 0.99, 1e-3),
    "adam": ServerOptimizerConfig("adam", 0.1, 0.9, 0.99, 1e-3),
}
EXAMPLES = TinyExamples(64)


def simulate(
    method="ffa_lora",
    unit="none",
    head="frozen",
    server="sgd",
    device="cuda:0",
    family="bert",
    **federation,
):
    """As ``load_network`` and ``build`` make it: the model moves, then adapters are installed."""
    method, head, privacy = registry.get(method), HeadConfig(head, 0.2, 0), UNITS[unit]
    adapter = AdapterConfig(4, 8.0, "query_value", "kaiming", 0, 0.0)
    model = tiny_model(family).to(device)
    network = build_network(Backbone(model, "tiny", (), TASK), adapter, FAMILIES[family][2])
    weights = "uniform" if privacy.unit == "client" else "size"
    settings = {"weights": weights, "server_optimizer": SERVERS[server]} | federation
    config = dataclasses.replace(arrivals.FEDERATION, rounds=4, **settings)
    clients = ClientRows(np.arange(64), np.concatenate([[0], np.cumsum(arrivals.SIZES)]))
    plan = make_plan(privacy, clients.sizes, config, covered_names(network, method, head))
    engine = StackedEngine(network, EXAMPLES, 64)
    if isinstance(next(model.parameters()), OnDevice):
        engine._shapes.graph = Recorder  # there is nothing to capture with
    return Simulation(
        method=method,
        network=network,
        engine=engine,
        clients=clients,
        config=config,
        head=head,
        seeds={"adapter": 0, "head": 0},
        seed=0,
        secret=b"s" * 32,
        plan=plan,
        privacy_ledger=PrivacyLedger(plan.noise_multiplier, plan.accounted_rate) if plan else None,
    )


def supported(method, unit, head, server="sgd"):
    """What the configuration's rules let through."""
    chosen = registry.get(method)
    kind = "client" if unit.startswith("client") else unit
    return (
        kind in chosen.units
        and not (kind == "client" and head == "personal")
        and (server == "sgd" or not chosen.needs_plain_averaging)
    )


def play(device, *case, **settings):
    """A round, a resume as from a checkpoint, another, scored; the state after each."""
    sim = simulate(*case, device=device, **settings)
    states = []
    sim.play(1)
    tensors, facts = snapshot(sim)
    states.append(tensors)
    kept = {n: t.clone() for n, t in tensors.items()}
    rest = simulate(*case, device=device, **settings)
    rest.privacy_ledger = sim.privacy_ledger
    restore(rest, kept, json.loads(json.dumps(facts)), sim.communication.rows(1))
    rest.play(2)
    states.append(snapshot(rest)[0])
    losses = predict(rest.network, EXAMPLES, rest.tensors, 64).losses
    assert {t.device.type for state in states for t in state.values()} == {"cpu"}
    assert {str(p.device) for p in rest.network.model.parameters()} == {device}
    return states, losses


def equals_the_cpu(found, case):
    """States and losses of a played case, within rounding; example-level noise is a GPU's own."""
    expected = play("cpu", *case)
    for states, wanted in zip(found[0], expected[0], strict=True):
        assert states.keys() == wanted.keys()
        assert all(torch.isfinite(value.float()).all() for value in states.values())
        for name, value in wanted.items() if case[1] != "example" else ():
            torch.testing.assert_close(states[name], value, rtol=1e-2, atol=1e-3)
    if case[1] != "example":
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-2, atol=1e-3)


CASES = [
    case
    for case in itertools.product(registry.names(), UNITS, HEADS, SERVERS)
    if supported(*case) and (case[3] == "sgd" or case[0] in ("lora", "fedsa_lora"))
]
QUICK = {
    ("ffa_lora", "none", "trained", "sgd"),
    ("lora", "example", "personal", "adam"),
    ("lora", "none", "frozen", "momentum"),
    ("ffa_lora", "client", "trained", "sgd"),
    ("ffa_lora", "client, local noise", "frozen", "sgd"),
    ("fedex_lora", "none", "frozen", "sgd"),
    ("fedsvd", "example", "trained", "sgd"),
    ("fedsa_lora", "example", "frozen", "sgd"),
    ("rolora", "client", "frozen", "sgd"),
}


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=() if c in QUICK else pytest.mark.slow) for c in CASES],
    ids=", ".join,
)
def test_a_run_and_its_resume_on_a_gpu(case):
    """No operation mixes devices, and what comes out is what the CPU computes."""
    with pretended_gpu():
        found = play("cuda:0", *case)
    equals_the_cpu(found, case)


@pytest.mark.parametrize(
    "rule",
    [pytest.param(r, marks=() if r == "median" else pytest.mark.slow) for r in robust.RULES],
)
def test_every_combination_on_a_gpu(rule):
    with pretended_gpu():
        play("cuda:0", "ffa_lora", "none", "trained", combination=rule, assumed_bad=1)


@pytest.mark.parametrize("family", ["distilbert", pytest.param("electra", marks=pytest.mark.slow)])
def test_families_that_pad(family):
    """DeBERTa's own tensor class is none that can be pretended to be on a GPU."""
    with pretended_gpu():
        play("cuda:0", "lora", "example", "trained", family=family)


def test_the_pretended_gpu_refuses_what_a_gpu_refuses():
    with pretended_gpu():
        there, here = torch.ones(3, device="cuda:0"), torch.ones(3)
        assert isinstance(there, OnDevice) and there.device == CUDA and here.device.type == "cpu"
        for mix in (
            lambda: there + here,
            lambda: torch.cat([here, there]),
            lambda: torch.where(there > 0, here, 0.0),
            lambda: here.index_add_(0, torch.zeros(3, dtype=torch.int64), there),
        ):
            with pytest.raises(RuntimeError, match="cuda:0 and cpu"):
                mix()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert (there * torch.tensor(2.0)).device == CUDA
        assert here.copy_(there).device.type == "cpu"
        moved = here.to("cuda")
        moved += 1.0
        assert here.sum() == 3.0 and moved.cpu().sum() == 6.0
