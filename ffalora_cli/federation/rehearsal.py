"""A federation played without training: who takes part, what is sent, who pays; not one gradient.

What travels depends on names and shapes alone, so the rounds are played with the real cohorts,
dropouts, downlink plans, methods and payloads on tensors without values (torch's ``meta`` device).
The communication ledger comes out as a run writes it, byte for byte, unless the run ends early
(uploads refused) or its cohorts are drawn from a secret that does not exist yet
(``privacy.noise=secure``): then the cohorts are others of the same distribution.

Of a million rounds not every one is played (``leaps.py``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from ffalora_cli.engine.job import LocalResult
from ffalora_cli.federation import dropouts
from ffalora_cli.federation.codecs import describe
from ffalora_cli.federation.leaps import SAMPLE, Played, leap
from ffalora_cli.federation.ledger import CommunicationLedger
from ffalora_cli.federation.payload import lines
from ffalora_cli.federation.release import ClientRelease, adapt_clip, release_of
from ffalora_cli.federation.server import apply_update, server_step
from ffalora_cli.federation.simulation import Simulation
from ffalora_cli.privacy.ledger import PrivacyLedger
from ffalora_cli.types import (
    Dense,
    Kind,
    PayloadItem,
    RoundRecord,
    ServerState,
    ServerUpdate,
    Tensors,
    kind_of,
)


@dataclass(frozen=True)
class Rehearsed:
    """What a run would leave behind, but for the values of its tensors."""

    communication: CommunicationLedger
    rounds: int  # fewer than asked for where nobody's budget affords another
    participations: np.ndarray  # int64 [num_clients], rounds each client was sent
    state: ServerState  # after the last round, on the meta device: shapes only
    exact: bool = True  # False: rounds with drawn cohorts stand for others


def rehearse(simulation: Simulation, leaps: bool = True) -> Rehearsed:
    """Play all rounds of a simulation without training; it stays as it is.

    Args:
        simulation: built, at round 0.
        leaps: rounds that repeat are multiplied, not played.
    """
    given = {f.name: getattr(simulation, f.name) for f in fields(Simulation)}
    rehearsal = Rehearsal(**given)
    exact = True
    while not rehearsal.is_last(rehearsal.state.round):
        rehearsal.play(rehearsal.state.round + 1)
        exact &= not leaps or leap(rehearsal)
    return Rehearsed(
        rehearsal.communication,
        rehearsal.state.round,
        rehearsal.participations,
        rehearsal.state,
        exact,
    )


class Rehearsal(Simulation):
    """A simulation whose clients answer with tensors of the right shape."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._shapes = {name: value.to("meta") for name, value in self.network.initial.items()}
        self.participations = np.zeros(len(self.clients), dtype=np.int64)
        self.history: deque[Played] = deque(maxlen=SAMPLE)
        self._updates: dict[tuple[object, ...], ServerUpdate] = {}
        if self.plan is not None:
            self.privacy_ledger = PrivacyLedger(
                self.plan.noise_multiplier, self.plan.accounted_rate
            )

    def play(self, round: int) -> RoundRecord:
        """One round: sample, send, charge, count the answers, combine their shapes."""
        taken = self.privacy_ledger.steps_taken.copy() if self.privacy_ledger else 0
        asked = np.sort(self._sample(round))
        chosen = asked[~dropouts.absent(self.seed, round, asked, self.config.dropout_rate)]
        late = dropouts.late(self.seed, round, chosen, self.config.straggler_rate)
        arrived = chosen[~late]
        release = release_of(self.plan, self.secret)
        for number in self.method.numbers(round):
            self._send(number, chosen)
            self._charge(number, chosen)
            self._answer(number, chosen)
            if len(arrived) or isinstance(release, ClientRelease):
                self._combine_shapes(number, arrived)
        self.state = replace(self.state, round=round)
        self.client_states.took_part(chosen, round)
        self.participations[chosen] += 1
        self.state, _ = adapt_clip(
            release, self.communication, round, chosen, [_nothing(chosen)], self.state
        )
        charged = self.privacy_ledger.steps_taken - taken if self.privacy_ledger else None
        self.history.append(Played(chosen, charged, len(self.state.merges)))
        return RoundRecord(round, {})

    @property
    def tensors(self) -> Tensors:
        """Shapes of all tensors."""
        return self._shapes

    def _answer(self, number: int, chosen: np.ndarray) -> None:
        """Count the uploads; all of a round have one size."""
        round, place = self._place(number)
        sizes = lines(self._manifest(number).entries)
        self.communication.add(round, "uplink", chosen, sizes, place)

    def _lines(self, items: Sequence[PayloadItem]) -> Mapping[Kind, int]:
        """The same of a payload with these names and shapes; tensors have no values here."""
        return lines(describe(items, self.config.wire_dtype))

    def _combine_shapes(self, number: int, ids: np.ndarray) -> None:
        """What the server's step changes: tensors, moments, merges; as shapes."""
        arrived, specs = len(ids), self._manifest(number).specs
        mean: Tensors = {s.name: torch.empty(s.shape, device="meta") for s in specs}
        uploads = None
        if not self.method.linear:
            uploads = {s.name: torch.empty(arrived, *s.shape, device="meta") for s in specs}
        weights = torch.full((arrived,), 1 / max(arrived, 1), dtype=torch.float64, device="meta")
        whole = replace(self.state, tensors=self.tensors)
        stepped, optimizer = server_step(self.config.server_optimizer, whole, mean)
        # What a method changes follows from the place in its cycle and from how many answered; the
        # first cycle may differ from all later ones.
        cycle = len(self.method.cycle) * self.method.exchanges()
        key = (arrived, number if number <= cycle else cycle + number % cycle + 1)
        if key not in self._updates:
            self._updates[key] = self.method.aggregate(
                whole, stepped, uploads, weights, self._context(number)
            )
        update = self._updates[key]
        self.state = apply_update(self.state, update, number, self.network.scale, optimizer)
        if update.own:
            items = [Dense(n, kind_of(n), values[:1]) for n, values in update.own.items()]
            round, place = self._place(number)
            self.communication.add(round, "downlink", ids, self._lines(items), place)


def _nothing(chosen: np.ndarray) -> LocalResult:
    """The result of clients that saw no example."""
    none = np.zeros(len(chosen), dtype=np.int64)
    return LocalResult({}, none.astype(np.float64), none, none, none, none, 0, 0)
