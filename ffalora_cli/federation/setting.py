"""Holds the fixed parts of a federation, and what follows from them for each exchange."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from ffalora_cli import keys
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import FederationConfig, HeadConfig
from ffalora_cli.data.partition.partition import ClientRows
from ffalora_cli.engine.job import LocalOptimizer
from ffalora_cli.federation.ranks import nested
from ffalora_cli.federation.roles import kept_names, personal_names, trained_specs
from ffalora_cli.federation.schedule import local_lr
from ffalora_cli.federation.server.release import (
    ClientRelease,
    ExampleRelease,
    LocalRelease,
    release_of,
)
from ffalora_cli.federation.wire.contract import Corrupt, Manifest
from ffalora_cli.keys import Key
from ffalora_cli.methods.base import AggregateContext, Method
from ffalora_cli.models.network import Network
from ffalora_cli.privacy.planning.plan import PrivacyPlan
from ffalora_cli.stopping import Poll, never
from ffalora_cli.types import TensorSpec


@dataclass(kw_only=True)
class Setting:
    """The parts of a federation; exchanges are told by their number (from 1, over all rounds).

    Attributes:
        method: what is trained, sent and combined.
        network: frozen model with sites; merges are applied to it when they are made.
        clients: rows of every client.
        config: the federation group.
        head: mode of the head.
        seeds: ``adapter`` and ``head`` (what an 8-byte seed stands for).
        seed: of cohorts and shuffling.
        secret: key of every privacy draw (sampling, noise).
        plan: privacy plan, or None.
        options: of the method.
        dropout: of the adapters.
        model_dropout: of the frozen model.
        poll: called between micro-batches.
        mechanism: whether rounds measure the uploads (``server.mechanism``).
        corrupt: changes single uploads on their way (simulated adversaries); None = nobody does.
    """

    method: Method
    network: Network
    clients: ClientRows
    config: FederationConfig
    head: HeadConfig
    seeds: dict[str, int]
    seed: int
    secret: Key
    plan: PrivacyPlan | None
    options: dict[str, object] = field(default_factory=dict)
    dropout: float = 0.0
    model_dropout: float | Literal["own"] | None = None
    poll: Poll = never
    mechanism: bool = False
    corrupt: Corrupt | None = None

    def __post_init__(self) -> None:
        count, most = len(self.clients), self.network.rank
        self.ranks = np.asarray(self.method.ranks(count, most, self.options))  # [num_clients]
        if self.ranks.shape != (count,) or self.ranks.min() < 1 or self.ranks.max() > most:
            raise ConfigError(
                f"method.name={self.method.name} gives {self.ranks.size} clients ranks from "
                f"{self.ranks.min()} to {self.ranks.max()}; {count} clients need ranks from 1 to "
                f"adapter.rank={most}; set adapter.rank to the largest"
            )
        least, form = int(self.ranks.min()), self.network.form
        if least < most and not nested(form, self.network.sites[0], least, most):
            raise ConfigError(
                f"adapter.form={form.name} has no smaller ranks within a larger one, and "
                f"method.name={self.method.name} gives ranks from {least}; use adapter.form=lora, "
                "or a method of one rank"
            )

    def place(self, number: int) -> tuple[int, int]:
        """Round of an exchange, and which of the round's it is (from 0)."""
        round, place = divmod(number - 1, self.method.exchanges())
        return round + 1, place

    def key(self, number: int) -> Key:
        """Key of an exchange's draws: a second one of a round draws others than the first."""
        place = self.place(number)[1]
        return keys.derive(self.secret, "exchange", place) if place else self.secret

    def release(self, number: int) -> ExampleRelease | LocalRelease | ClientRelease | None:
        """The mechanism of an exchange."""
        return release_of(self.plan, self.key(number))

    def context(self, number: int) -> AggregateContext:
        """What the method is told when the exchange is combined."""
        round, place = self.place(number)
        network, seed = self.network, self.seeds["adapter"]
        return AggregateContext(round, network.sites, network.scale, self.options, place, seed)

    def trainable(self, number: int) -> list[TensorSpec]:
        """Tensors trained in an exchange, in layout order."""
        return trained_specs(self.network, self.method.exchange(number), self.head)

    def trained(self, round: int) -> list[TensorSpec]:
        """Tensors trained in any exchange of a round, in layout order."""
        names = {spec.name for n in self.method.numbers(round) for spec in self.trainable(n)}
        return [spec for spec in self.network.specs if spec.name in names]

    @property
    def personal(self) -> tuple[str, ...]:
        """Names of tensors of which every client has its own."""
        return personal_names(self.network, self.method, self.head)

    @property
    def one_rank(self) -> bool:
        """Whether all clients have the adapters' own rank."""
        return bool((self.ranks == self.network.rank).all())

    def by_rank(self, ids: np.ndarray) -> list[tuple[np.ndarray | slice, int]]:
        """Places in ``ids`` of the clients of one rank, and that rank."""
        if self.one_rank:
            return [(slice(None), self.network.rank)]
        ranks = self.ranks[ids]
        return [(np.flatnonzero(ranks == rank), int(rank)) for rank in np.unique(ranks)]

    def shapes(self, rank: int) -> dict[str, tuple[int, ...]]:
        """Shape of every adapter tensor at a rank."""
        network = self.network
        return {spec.name: spec.shape for spec in network.form.specs(network.sites, rank)}

    def extents(self, ids: np.ndarray) -> dict[str, np.ndarray] | None:
        """Every client's own part of the adapter tensors (``LocalJob.extents``), by name."""
        if self.one_rank:
            return None
        shapes = {rank: self.shapes(int(rank)) for rank in np.unique(self.ranks[ids])}
        ranks = self.ranks[ids].tolist()
        return {n: np.array([shapes[r][n] for r in ranks]) for n in self.shapes(self.network.rank)}

    def manifest(self, number: int, rank: int | None = None) -> Manifest:
        """What is uploaded in an exchange, by clients of a rank (None: the adapters' own)."""
        kept = kept_names(self.network, self.method.exchange(number), self.head)
        sent = [spec for spec in self.trainable(number) if spec.name not in kept]
        if rank is not None and rank != self.network.rank:
            shapes = self.shapes(rank)
            sent = [replace(spec, shape=shapes.get(spec.name, spec.shape)) for spec in sent]
        return Manifest(self.place(number)[0], number, sent, self.config.wire_dtype, self.method)

    def optimizer(self, round: int) -> LocalOptimizer:
        """Of every client; its state is fresh in every exchange."""
        c, rate = self.config, local_lr(self.config, round)
        own = (c.local_momentum, c.local_weight_decay, c.clip_gradients)
        return LocalOptimizer(c.local_optimizer, rate, *own)
