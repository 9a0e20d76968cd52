"""A simulation's state between rounds as named tensors and JSON values, and back.

That is all a round leaves behind: randomness is keyed, the privacy ledger is a file of its own, and
the communication ledger is restored from the rows it wrote. Names with a prefix:

| prefix             | holds                                                         |
| ------------------ | ------------------------------------------------------------- |
| ``tensors/``       | global factors and head                                       |
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
from ffalora_cli.federation.clients import ClientStates
from ffalora_cli.federation.ledger import CommunicationLedger
from ffalora_cli.federation.simulation import Simulation
from ffalora_cli.types import Merge, ServerState, Tensors


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
        # Files are sorted by name; payloads and sums go in the order things came about.
        "order": {group: list(groups[group]) for group in ("tensors", "optimizer", "delta")},
        "merges": [{"site": merge.site, "round": merge.round} for merge in state.merges],
        "max_grad_norm": state.max_grad_norm,
        "upload_norms": list(state.upload_norms),
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
    _check_fit(simulation, groups["tensors"], clients)
    merges = tuple(
        Merge(fact["site"], tensors[f"merge/{i}/left"], tensors[f"merge/{i}/right"], fact["round"])
        for i, fact in enumerate(facts["merges"])
    )
    simulation.state = ServerState(
        tensors=groups["tensors"],
        versions=dict(facts["versions"]),
        round=facts["round"],
        optimizer=groups["optimizer"],
        merges=merges,
        base_delta=groups["delta"],
        max_grad_norm=facts["max_grad_norm"],
        upload_norms=tuple(facts["upload_norms"]),
    )
    simulation.client_states = ClientStates.from_tensors(clients)
    simulation.communication = CommunicationLedger.restore(simulation.config.num_clients, rows)
    simulation.network.add_to_base(simulation.state.base_delta)


def _check_fit(simulation: Simulation, tensors: Tensors, clients: Tensors) -> None:
    """Refuse a state that belongs to another federation."""
    there = {name: tuple(value.shape) for name, value in tensors.items()}
    wanted = {name: tuple(value.shape) for name, value in simulation.state.tensors.items()}
    for name in sorted(there.keys() | wanted.keys()):
        if there.get(name) != wanted.get(name):
            raise ConfigError(
                f"checkpoint: {name} is {there.get(name, 'absent')} there and "
                f"{wanted.get(name, 'absent')} here; keep model, adapter.rank and targets"
            )
    count = len(clients["last_round"])
    if count != simulation.config.num_clients:
        raise ConfigError(
            f"federation.num_clients={simulation.config.num_clients}, but the checkpoint has "
            f"{count} clients; set federation.num_clients={count}"
        )
