"""A whole federated run that is interrupted half-way, and one that is not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import torch

from scripts.bench import workload

if TYPE_CHECKING:
    from ffalora_cli.federation.simulation import Simulation
    from ffalora_cli.types import Tensors

CLIENTS, ROUNDS = 20, 4  # more clients than are summed by one product


def interrupted_and_whole(device: str, precision: str, private: bool, smoke: bool) -> list[str]:
    """Names of the tensors whose bits differ at the end.

    Args:
        device: to train on.
        precision: of the frozen weights.
        private: plan example-level noise (needs dp_accounting).
        smoke: a tiny model.
    """
    whole = _simulation(device, precision, private, smoke)
    expected = {n: v.clone() for n, v in _played(whole, ROUNDS).items()}
    first = _simulation(device, precision, private, smoke)
    tensors = {n: v.clone() for n, v in _played(first, ROUNDS // 2).items()}
    rest = _resumed(first, tensors, _simulation(device, precision, private, smoke))
    found = _played(rest, ROUNDS)
    assert found.keys() == expected.keys() and any(bool(v.any()) for v in expected.values())
    return [name for name, value in expected.items() if not torch.equal(value, found[name])]


def _played(simulation: Simulation, until: int) -> Tensors:
    """The state's tensors after a round."""
    from ffalora_cli.federation.snapshot import snapshot

    while simulation.state.round < until:
        simulation.play(simulation.state.round + 1)
    return snapshot(simulation)[0]


def _resumed(first: Simulation, tensors: Tensors, rest: Simulation) -> Simulation:
    """``rest`` as a new process would take ``first`` up, from what is on disk of it."""
    from ffalora_cli.federation.snapshot import restore, snapshot

    facts = json.loads(json.dumps(snapshot(first)[1]))
    rest.privacy_ledger = first.privacy_ledger
    rows = [row for n in range(1, first.state.round + 1) for row in first.communication.rows(n)]
    restore(rest, tensors, facts, rows)
    return rest


def _simulation(device: str, precision: str, private: bool, smoke: bool) -> Simulation:
    """A fresh run: 20 clients, FFA-LoRA and a trained head, two steps a round."""
    from ffalora_cli.config.schema import (
        FederationConfig,
        HeadConfig,
        PrivacyConfig,
        ServerOptimizerConfig,
    )
    from ffalora_cli.data.partition.partition import ClientRows
    from ffalora_cli.engine.build import build_engine
    from ffalora_cli.engine.memory import auto_max_tokens
    from ffalora_cli.federation.roles import covered_names
    from ffalora_cli.federation.simulation import Simulation
    from ffalora_cli.methods import registry
    from ffalora_cli.privacy.ledger import PrivacyLedger

    profile = workload.Profile(CLIENTS, 8, 2, "tiny" if smoke else "minilm")
    examples, _ = workload.load_texts(profile, None)
    backbone, _ = workload.load_weights(profile.model, device)
    network = workload.make_network(backbone, precision, workload.TARGETS)
    method, head = registry.get("ffa_lora"), HeadConfig("trained", 0.2, 0)
    offsets = np.linspace(0, len(examples.lengths), CLIENTS + 1).astype(np.int64)
    clients = ClientRows(np.arange(len(examples.lengths)), offsets)
    federation = FederationConfig(
        num_clients=CLIENTS,
        cohort_size=None,
        cohort_sampling="full",
        rounds=ROUNDS,
        local_steps=profile.steps,
        local_batch_size=profile.batch,
        local_optimizer="sgd",
        local_lr=0.5,
        local_momentum=0.0,
        local_weight_decay=0.0,
        weights="size",
        server_optimizer=ServerOptimizerConfig("sgd", 1.0, 0.9, 0.99, 1e-3),
        downlink="cached",
        wire_dtype="float32",
        eval_every=1,
        eval_clients=False,
    )
    plan = None
    if private:
        from ffalora_cli.privacy.planning.make import make_plan

        privacy = PrivacyConfig("row", None, 1e-5, 0.5, 0.3, "rdp", "per_client", "reproducible")
        plan = make_plan(privacy, clients.sizes, federation, covered_names(network, method, head))
    return Simulation(
        method=method,
        network=network,
        engine=build_engine("stacked", network, examples, auto_max_tokens(network)),
        clients=clients,
        config=federation,
        head=head,
        seeds={"adapter": 0, "head": 0},
        seed=0,
        secret=workload.SECRET,
        plan=plan,
        privacy_ledger=PrivacyLedger(plan.noise_multiplier, plan.accounted_rate) if plan else None,
    )
