"""Which tensors are trained, which stay, which the privacy plan must cover, how they start."""

from __future__ import annotations

from ffalora_cli.config.schema import HeadConfig
from ffalora_cli.methods.base import Method
from ffalora_cli.models.network import Network
from ffalora_cli.types import ServerState, TensorSpec


def trainable_specs(
    network: Network, method: Method, head: HeadConfig, round: int
) -> list[TensorSpec]:
    """Tensors trained in this round, in layout order."""
    factors = method.trainable(round)
    return [
        spec
        for spec in network.specs
        if (spec.factor in factors if spec.kind == "adapter" else head.mode != "frozen")
    ]


def covered_names(network: Network, method: Method, head: HeadConfig) -> tuple[str, ...]:
    """Everything that is ever trained: clipped and noised, uploaded or not (phases alternate).

    No method's phases are longer than two rounds.
    """
    names = {s.name for round in (1, 2) for s in trainable_specs(network, method, head, round)}
    return tuple(spec.name for spec in network.specs if spec.name in names)


def initial_state(network: Network) -> ServerState:
    """Round 0: everything as its seed (or the checkpoint) says."""
    tensors = {spec.name: network.initial[spec.name].clone() for spec in network.specs}
    return ServerState(tensors=tensors, versions=dict.fromkeys(tensors, 0))


def personal_names(network: Network, method: Method, head: HeadConfig) -> tuple[str, ...]:
    """Tensors that never leave their client."""
    return tuple(
        spec.name
        for spec in network.specs
        if (spec.factor in method.personal if spec.kind == "adapter" else head.mode == "personal")
    )
