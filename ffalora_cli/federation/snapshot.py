"""Converts a simulation's state between rounds to named tensors and JSON values, and back.

That is all a round leaves behind: randomness is keyed, the privacy ledger is a file of its own, and
the communication ledger is restored from the rows it wrote. Names with a prefix:

| prefix             | holds                                                         |
| ------------------ | ------------------------------------------------------------- |
| ``tensors/``       | global factors and head, but for what seeds stand for          |
| ``optimizer/``     | moments of the server optimiser                               |
| ``delta/``         | dense change of the base weights, by site                     |
| ``merge/<number>/``| ``left`` and ``right`` of the merges a client may still need   |
| ``clients/``       | ``ClientStates.to_tensors``                                   |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.federation.cohort.clients import ClientStates
from ffalora_cli.federation.roles import regenerated
from ffalora_cli.federation.simulation import Simulation
from ffalora_cli.federation.wire.ledger import CommunicationLedger
from ffalora_cli.models.fingerprint import fingerprint_tensors
from ffalora_cli.types import HEAD, Merge, ServerState, Tensors, kind_of


def snapshot(simulation: Simulation) -> tuple[Tensors, dict[str, Any]]:
    """State after the last finished round.

    Returns:
        Tensors by prefixed name (the state's own, not copies), and JSON values.
    """
    state = simulation.state
    groups: dict[str, Mapping[str, torch.Tensor]] = {
        "tensors": state.tensors,
        "optimizer": state.optimizer,
        "delta": state.base_delta,
        "clients": simulation.client_states.to_tensors(),
    }
    for number, merge in enumerate(state.merges):
        groups[f"merge/{number}"] = {"left": merge.left, "right": merge.right}
    tensors = {
        f"{group}/{name}": value
        for group, values in groups.items()
        for name, value in values.items()
    }
    facts = {
        "round": state.round,
        "versions": dict(state.versions),
        "seeds": dict(state.seeds),
        "regenerated": _hashes(simulation, state),
        # Files are sorted by name; payloads and sums go in the order things came about.
        "order": {group: list(groups[group]) for group in ("tensors", "optimizer", "delta")},
        "merges": [{"site": merge.site, "exchange": merge.exchange} for merge in state.merges],
        "max_grad_norm": state.max_grad_norm,
        "upload_norms": list(state.upload_norms),
        "max_tokens": state.max_tokens,
    }
    return tensors, facts


def restore(
    simulation: Simulation,
    tensors: Tensors,
    facts: Mapping[str, Any],
    rows: Iterable[Mapping[str, Any]],
) -> None:
    """Put a freshly built simulation where another one was.

    Args:
        simulation: of the same method, model and clients, at round 0.
        tensors: from ``snapshot``; they stay on the CPU, as the engine alone knows the device.
        facts: from ``snapshot``, perhaps by way of JSON.
        rows: of the communication ledger, all rounds.

    Raises:
        ConfigError: a state of another method, rank, model or number of clients.
    """
    order = facts["order"]
    groups = {
        group: {name: tensors[f"{group}/{name}"] for name in order[group]}
        for group in ("tensors", "optimizer", "delta")
    }
    clients = {
        name.removeprefix("clients/"): value
        for name, value in tensors.items()
        if name.startswith("clients/")
    }
    _check_fit(simulation, facts["versions"], groups["tensors"], clients)
    merges = tuple(
        Merge(
            fact["site"], tensors[f"merge/{i}/left"], tensors[f"merge/{i}/right"], fact["exchange"]
        )
        for i, fact in enumerate(facts["merges"])
    )
    state = ServerState(
        tensors=groups["tensors"],
        versions=dict(facts["versions"]),
        round=facts["round"],
        seeds=dict(facts["seeds"]),
        optimizer=groups["optimizer"],
        merges=merges,
        base_delta=groups["delta"],
        max_grad_norm=facts["max_grad_norm"],
        upload_norms=tuple(facts["upload_norms"]),
        max_tokens=facts["max_tokens"],
    )
    _check_regenerated(facts["regenerated"], _hashes(simulation, state))
    simulation.state = state
    simulation.client_states = ClientStates.from_tensors(clients)
    simulation.communication = CommunicationLedger.restore(len(simulation.clients), rows)
    simulation.network.add_to_base(simulation.state.base_delta)


def _hashes(simulation: Simulation, state: ServerState) -> dict[str, str]:
    """Fingerprints of what seeds stand for, by factor (of the head, all in one)."""
    groups: dict[str, Tensors] = {}
    for name, value in regenerated(simulation.network, state).items():
        group = HEAD if kind_of(name) == HEAD else name.rpartition(".")[2]
        groups.setdefault(group, {})[name] = value
    return {group: fingerprint_tensors(values) for group, values in groups.items()}


def _check_regenerated(then: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse tensors that are not in the checkpoint and do not come out as they were."""
    for group in then:
        if then[group] != now.get(group):
            key = "head.seed" if group == HEAD else "adapter.seed and adapter.init"
            raise ConfigError(
                f"checkpoint: {group} comes out of its seed as {now.get(group)}, the run began "
                f"with {then[group]}; keep {key}, the model, and the versions of torch and ffalora"
            )


def _check_fit(
    simulation: Simulation, versions: Mapping[str, int], tensors: Tensors, clients: Tensors
) -> None:
    """Refuse a state that belongs to another federation."""
    own = {spec.name: spec.shape for spec in simulation.network.specs}
    there = {name: own.get(name, "unknown") for name in versions}
    there |= {name: tuple(value.shape) for name, value in tensors.items()}
    wanted = {name: own[name] for name in own}
    for name in sorted(there.keys() | wanted.keys()):
        if there.get(name) != wanted.get(name):
            raise ConfigError(
                f"checkpoint: {name} is {there.get(name, 'absent')} there and "
                f"{wanted.get(name, 'absent')} here; keep model, adapter.rank and targets"
            )
    count = len(clients["last_round"])
    if count != len(simulation.clients):
        raise ConfigError(
            f"federation.num_clients={len(simulation.clients)}, but the checkpoint has "
            f"{count} clients; set federation.num_clients={count}"
        )
