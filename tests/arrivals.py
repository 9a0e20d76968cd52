"""Small federations on a tiny model, for tests of what arrives at the server."""

from __future__ import annotations

import dataclasses

import numpy as np

from ffalora_cli.config.schema import (
    FederationConfig,
    HeadConfig,
    PrivacyConfig,
    ServerOptimizerConfig,
)
from ffalora_cli.data.partition.partition import ClientRows
from ffalora_cli.engine.build import build_engine
from ffalora_cli.federation.roles import covered_names
from ffalora_cli.federation.simulation import Simulation
from ffalora_cli.methods import registry
from ffalora_cli.privacy.ledger import PrivacyLedger
from ffalora_cli.privacy.planning.make import make_plan
from tests.tiny import TinyExamples, tiny_network

CLIENTS = 7
SIZES = np.array([12, 8, 10, 6, 9, 11, 8])
FEDERATION = FederationConfig(
    num_clients=CLIENTS,
    cohort_size=None,
    cohort_sampling="full",
    rounds=6,
    local_steps=2,
    local_batch_size=6,
    local_optimizer="sgd",
    local_lr=0.5,
    local_momentum=0.0,
    local_weight_decay=0.0,
    weights="size",
    server_optimizer=ServerOptimizerConfig("sgd", 1.0, 0.0, 0.99, 1e-3),
    downlink="cached",
    wire_dtype="float32",
    eval_every=1,
    eval_clients=False,
)
EXAMPLE = PrivacyConfig("row", None, 1e-5, 0.5, 0.3, "rdp", "per_client", "reproducible")
CLIENT = PrivacyConfig("client", None, 1e-2, 2.0, 0.05, "rdp", "per_client", "reproducible")
NONE = PrivacyConfig("none", None, None, None, None, "rdp", "per_client", "reproducible")


def federate(method="ffa_lora", privacy=NONE, seed=0, engine=None, **changes) -> Simulation:
    """A federation of seven clients; ``changes`` go into its ``FederationConfig``."""
    federation = dataclasses.replace(FEDERATION, **changes)
    network = tiny_network("bert")
    method, head = registry.get(method), HeadConfig("frozen", 0.2, 0)
    clients = ClientRows(np.arange(64), np.concatenate([[0], np.cumsum(SIZES)]))
    covered = covered_names(network, method, head)
    plan = make_plan(privacy, clients.sizes, federation, covered, exchanges=method.exchanges())
    return Simulation(
        method=method,
        network=network,
        engine=engine or build_engine("stacked", network, TinyExamples(64), 64),
        clients=clients,
        config=federation,
        head=head,
        seeds={"adapter": 0, "head": 0},
        seed=seed,
        secret=b"s" * 32,
        plan=plan,
        privacy_ledger=PrivacyLedger(plan.noise_multiplier, plan.accounted_rate) if plan else None,
    )


def keeping(sim, seen):
    """The engine's answers; ``seen`` grows by every (job, result) and every receipt."""

    def answer(asked):
        reply = sim.answer(asked)
        seen.append(asked if reply is None else (asked, reply))
        return reply

    return answer
