"""Tells which tensors are trained, which stay, which the plan must cover, and their values."""

from __future__ import annotations

from ffalora_cli.config.schema import HeadConfig
from ffalora_cli.methods.base import Exchange, Method
from ffalora_cli.models.network import Network
from ffalora_cli.types import ServerState, Tensors, TensorSpec


def trained_specs(network: Network, exchange: Exchange, head: HeadConfig) -> list[TensorSpec]:
    """Tensors trained in an exchange, in layout order."""
    return [
        spec
        for spec in network.specs
        if (spec.factor in exchange.trained if spec.kind == "adapter" else head.mode != "frozen")
    ]


def exchanged_specs(network: Network, method: Method, head: HeadConfig) -> list[list[TensorSpec]]:
    """The same of every exchange of the method's cycle."""
    return [trained_specs(network, one, head) for round in method.cycle for one in round]


def covered_names(network: Network, method: Method, head: HeadConfig) -> tuple[str, ...]:
    """Everything that is ever trained: clipped and noised, uploaded or not (phases alternate)."""
    names = {spec.name for specs in exchanged_specs(network, method, head) for spec in specs}
    return tuple(spec.name for spec in network.specs if spec.name in names)


def kept_names(network: Network, exchange: Exchange, head: HeadConfig) -> tuple[str, ...]:
    """Tensors that an exchange trains and does not upload."""
    return tuple(
        spec.name
        for spec in network.specs
        if (spec.factor in exchange.kept if spec.kind == "adapter" else head.mode == "personal")
    )


def personal_names(network: Network, method: Method, head: HeadConfig) -> tuple[str, ...]:
    """Tensors of which every client has its own."""
    return tuple(
        spec.name
        for spec in network.specs
        if (spec.factor in method.personal if spec.kind == "adapter" else head.mode == "personal")
    )


def initial_state(network: Network) -> ServerState:
    """Round 0: everything as its seed (or the checkpoint) says."""
    return ServerState(tensors={}, versions={spec.name: 0 for spec in network.specs})


def regenerated(network: Network, state: ServerState) -> Tensors:
    """Tensors that the state has no values of, by name: as initialised, or drawn anew."""
    drawn = {factor: network.draw(seed) for factor, seed in state.seeds.items()}
    return {
        spec.name: drawn[spec.factor][spec.name]
        if spec.kind == "adapter" and spec.factor in drawn
        else network.initial[spec.name]
        for spec in network.specs
        if spec.name not in state.tensors
    }


def global_tensors(network: Network, state: ServerState) -> Tensors:
    """Values of all tensors, in layout order."""
    tensors = state.tensors | regenerated(network, state)
    return {spec.name: tensors[spec.name] for spec in network.specs}
