"""What a federated LoRA method says; the runner owns everything else (design section 4).

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
from ffalora_cli.types import ServerState, ServerUpdate, Site, Stack, Tensors

if TYPE_CHECKING:
    import torch

Factor = str
"""A factor of the method's form, by the name that the form gives it."""


@dataclass(frozen=True)
class AggregateContext:
    """What ``aggregate`` may know besides the tensors."""

    round: int
    sites: Sequence[Site]
    scale: float  # alpha / rank
    options: Mapping[str, Any]


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
        personal: factors that are trained but never leave their client.
        personal_head: whether the head is meant to stay with the client, too.
        exact: whether one round's merged global model equals the weighted mean of the clients'
            merged models; None where clients have no common model. Tested as declared.
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
    personal: ClassVar[tuple[Factor, ...]] = ()
    personal_head: ClassVar[bool] = False
    exact: ClassVar[bool | None] = False
    needs_plain_averaging: ClassVar[bool] = False  # refuses server optimisers other than sgd, lr 1

    def trainable(self, round: int) -> tuple[Factor, ...]:
        """Factors trained in this round (rounds count from 1)."""
        return ("lora_a", "lora_b")

    def uploaded(self, round: int) -> tuple[Factor, ...]:
        """Factors a client sends after this round: what it trained and does not keep."""
        return tuple(f for f in self.trainable(round) if f not in self.personal)

    def aggregate(
        self,
        state: ServerState,
        mean: Tensors,
        uploads: Stack | None,
        weights: torch.Tensor,
        context: AggregateContext,
    ) -> ServerUpdate:
        """Combine a round.

        Args:
            state: before the round.
            mean: weighted mean of the uploads after the server optimiser (and, under client-level
                privacy, after noise), by tensor name; heads included when they are shared.
            uploads: ``[clients, ...]`` by tensor name, or None for linear methods.
            weights: ``[clients]``, sums to 1.
            context: round, sites, scale, options.

        Returns:
            New values of the tensors that changed, and merges into the base weights.
        """
        return ServerUpdate(mean)

    def uplink_elements(self, site: Site, rank: int, round: int) -> int:
        """Elements one client sends for one adapted layer in this round."""
        return self._elements(self.uploaded(round), site, rank)

    def downlink_elements(self, site: Site, rank: int, round: int, clients: int) -> int:
        """Elements one client is sent for one adapted layer at the start of this round.

        Ledger kinds ``adapter`` and ``merge`` under full participation and ``cached`` downlink;
        heads, seeds and framing are lines of their own. ``clients`` is the number of uploads
        combined in the round before.
        """
        if round == 1:
            return 0  # everything is still as its seed says
        return self._elements(self.uploaded(round - 1), site, rank)

    def _elements(self, factors: Sequence[Factor], site: Site, rank: int) -> int:
        shapes = forms.get(self.form).factors(site, rank)
        return sum(math.prod(shapes[factor]) for factor in factors)
