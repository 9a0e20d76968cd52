"""Declares a federated LoRA method: what it trains, sends and combines; the runner does the rest.

A method is one file with one subclass of ``Method`` named ``METHOD`` and one YAML in
``configs/method``. Declarations are plain values, readable without torch; torch is imported
inside the functions that need it. Methods see named tensors and stacks (a leading client axis).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ffalora_cli.adapters import registry as forms
from ffalora_cli.config.schema import INSIDE_CLIENTS
from ffalora_cli.types import (
    Bits,
    Dense,
    PayloadItem,
    Rows,
    ServerState,
    ServerUpdate,
    Site,
    Sparse,
    Stack,
    Tensors,
    kind_of,
)

if TYPE_CHECKING:
    import numpy as np
    import torch

Factor = str
"""A factor of the method's form, by the name that the form gives it."""


@dataclass(frozen=True)
class Exchange:
    """Local training of some factors, and what becomes of them.

    Attributes:
        trained: factors that every client of the cohort trains; all others stand still.
        kept: of these, those that never leave their client.
        own: of these, those that go up and come back to each client as its own
            (``ServerUpdate.own``); what is neither kept nor own is common to all.
    """

    trained: tuple[Factor, ...]
    kept: tuple[Factor, ...] = ()
    own: tuple[Factor, ...] = ()

    @property
    def uploaded(self) -> tuple[Factor, ...]:
        """Factors a client sends: what it trained and does not keep."""
        return tuple(f for f in self.trained if f not in self.kept)


@dataclass(frozen=True)
class AggregateContext:
    """What ``aggregate`` may know besides the tensors."""

    round: int
    sites: Sequence[Site]
    scale: float  # alpha / rank
    options: Mapping[str, Any]
    exchange: int = 0  # within the round
    seed: int = 0  # ``adapter.seed``: what a method draws anew begins with it


class Method:
    """Defaults of FedIT; a method overrides what it changes.

    Attributes:
        name: file and config name.
        title: as the paper calls it.
        reference: authors, title, venue, arXiv id.
        form: of the adapters it is written for, a value of ``adapter.form``.
        travels: one sentence, what is sent in each direction.
        uplink_formula: bytes a client, round and adapted layer, as printed by ``ffalora ls``.
        downlink_formula: the same, downwards.
        linear: whether the server result is linear in the uploads. The runner hands ``uploads``
            to ``aggregate`` only when it is False.
        units: privacy units under which its guarantee holds.
        refusal: why the units left out are left out; printed when one is asked for.
        cycle: rounds, over and over: each the exchanges it consists of, equally many in all.
        personal_head: whether the head is meant to stay with the client, too.
        exact: whether one round's merged global model equals the weighted mean of the clients'
            merged models; None where clients have no common model. Tested as declared.
        merges: whether the server adds to the frozen weights.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    reference: ClassVar[str]
    travels: ClassVar[str]
    uplink_formula: ClassVar[str]
    downlink_formula: ClassVar[str]
    form: ClassVar[str] = "lora"
    linear: ClassVar[bool] = True
    units: ClassVar[frozenset[str]] = frozenset({"none", *INSIDE_CLIENTS, "client"})
    refusal: ClassVar[str] = ""
    cycle: ClassVar[tuple[tuple[Exchange, ...], ...]] = ((Exchange(("lora_a", "lora_b")),),)
    personal_head: ClassVar[bool] = False
    exact: ClassVar[bool | None] = False
    merges: ClassVar[bool] = False
    needs_plain_averaging: ClassVar[bool] = False  # refuses server optimisers other than sgd, lr 1

    def __init_subclass__(cls) -> None:
        if not cls.cycle or {len(round) for round in cls.cycle} != {cls.exchanges()}:
            raise TypeError(
                f"{cls.__name__}.cycle: every round has equally many exchanges, one at least"
            )
        roles: dict[Factor, tuple[bool, bool]] = {}
        for one in (one for round in cls.cycle for one in round):
            if not one.uploaded or not {*one.kept, *one.own} <= set(one.trained):
                raise TypeError(
                    f"{cls.__name__}.cycle: {one} uploads nothing, or keeps what it does not train"
                )
            for f in one.trained:
                if roles.setdefault(f, role := (f in one.kept, f in one.own)) != role or all(role):
                    raise TypeError(
                        f"{cls.__name__}.cycle: {f} is kept, own or common, in all exchanges alike"
                    )

    @classmethod
    def exchanges(cls) -> int:
        """Exchanges of a round."""
        return len(cls.cycle[0])

    @property
    def personal(self) -> tuple[Factor, ...]:
        """Factors of which every client has its own."""
        found = (f for round in self.cycle for one in round for f in (*one.kept, *one.own))
        return tuple(dict.fromkeys(found))

    def exchange(self, number: int) -> Exchange:
        """The exchange of this number (they count from 1, over all rounds)."""
        round, place = divmod(number - 1, self.exchanges())
        return self.cycle[round % len(self.cycle)][place]

    def numbers(self, round: int) -> range:
        """Numbers of a round's exchanges."""
        return range((round - 1) * self.exchanges() + 1, round * self.exchanges() + 1)

    def ranks(self, num_clients: int, rank: int, options: Mapping[str, Any]) -> np.ndarray:
        """Rank of every client's adapters, int ``[num_clients]``: all the same.

        A client of a lower rank trains, sends and is sent the first slices along every rank's axis;
        to the server its others are zero. ``scale`` is alpha / ``rank`` for all of them.

        Args:
            num_clients: of the federation.
            rank: ``adapter.rank``, the largest there may be.
            options: of the method.
        """
        import numpy as np

        return np.full(num_clients, rank)

    def compress(self, trained: Stack, before: Tensors) -> list[PayloadItem]:
        """What carries an upload: every tensor whole, unless a method says otherwise.

        How many bytes it has may depend on shapes, not on values: the server checks arrivals
        against it, and a run is counted beforehand, with tensors on torch's ``meta`` device.

        Args:
            trained: what leaves the clients, ``[clients, ...]`` by name.
            before: the same tensors as the clients started from; with a client axis where every
                client has its own.
        """
        return [Dense(name, kind_of(name), values) for name, values in trained.items()]

    def restore(self, items: Sequence[PayloadItem], before: Tensors) -> Stack:
        """The tensors ``[clients, ...]`` that the server combines, from what ``compress`` sent."""
        carried = Dense | Rows | Sparse | Bits
        return {item.name: item.dense() for item in items if isinstance(item, carried)}

    def aggregate(
        self,
        state: ServerState,
        mean: Tensors,
        uploads: Stack | None,
        weights: torch.Tensor,
        context: AggregateContext,
    ) -> ServerUpdate:
        """Combine the uploads of an exchange.

        Args:
            state: before the exchange; ``tensors`` has every global tensor.
            mean: weighted mean of the uploads after the server optimiser (and, under client-level
                privacy, after noise), by tensor name; heads included when they are shared.
            uploads: ``[clients, ...]`` by tensor name, or None for linear methods.
            weights: ``[clients]``, sums to 1.
            context: round, sites, scale, options.

        Returns:
            New values of the tensors that changed, merges into the base weights, seeds of factors
            drawn anew, and results of each client's own.
        """
        return ServerUpdate(mean)

    def uplink_elements(self, site: Site, rank: int, round: int) -> int:
        """Elements one client sends for one adapted layer in this round."""
        sent = (self.exchange(number) for number in self.numbers(round))
        return sum(self._elements(one.uploaded, site, rank) for one in sent)

    def downlink_elements(self, site: Site, rank: int, round: int, clients: int) -> int:
        """Elements one client is sent for one adapted layer in this round.

        Ledger kinds ``adapter`` and ``merge`` under full participation and ``cached`` downlink;
        heads, seeds and framing are lines of their own. ``clients`` is the number of uploads
        combined in the exchange before.
        """
        came = [self.exchange(number) for number in self.numbers(round)]
        # What changed in an exchange is sent at the next; before the first all is as seeds say.
        before = [self.exchange(number - 1) for number in self.numbers(round) if number > 1]
        common = [f for one in before for f in one.uploaded if f not in one.own]
        own = [f for one in came for f in one.own]
        return self._elements((*common, *own), site, rank)

    def _elements(self, factors: Sequence[Factor], site: Site, rank: int) -> int:
        shapes = forms.get(self.form).factors(site, rank)
        return sum(math.prod(shapes[factor]) for factor in factors)
