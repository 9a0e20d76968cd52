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
from ffalora_cli.federation.release import ClientRelease, adapt_clip
from ffalora_cli.federation.server import apply_update, server_step
from ffalora_cli.federation.simulation import Simulation
from ffalora_cli.methods.base import AggregateContext
from ffalora_cli.privacy.ledger import PrivacyLedger
from ffalora_cli.types import Kind, PayloadItem, RoundRecord, ServerState, ServerUpdate, Tensors


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
        shapes = {name: value.to("meta") for name, value in self.state.tensors.items()}
        self.state = replace(self.state, tensors=shapes)
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
        self._send(round, chosen)
        self._charge(round, chosen)
        late = dropouts.late(self.seed, round, chosen, self.config.straggler_rate)
        arrived = chosen[~late]
        self._answer(round, chosen)
        if len(arrived) or isinstance(self._release, ClientRelease):
            self._combine_shapes(round, len(arrived))
        self.state = replace(self.state, round=round)
        self.client_states.took_part(chosen, round)
        self.participations[chosen] += 1
        self.state, _ = adapt_clip(
            self._release, self.communication, round, chosen, [_nothing(chosen)], self.state
        )
        charged = self.privacy_ledger.steps_taken - taken if self.privacy_ledger else None
        self.history.append(Played(chosen, charged, len(self.state.merges)))
        return RoundRecord(round, {})

    def _answer(self, round: int, chosen: np.ndarray) -> None:
        """Count the uploads; all of a round have one size."""
        self.communication.add(round, "uplink", chosen, lines(self._manifest(round).entries))

    def _lines(self, items: Sequence[PayloadItem]) -> Mapping[Kind, int]:
        """The same of a payload with these names and shapes; tensors have no values here."""
        return lines(describe(items, self.config.wire_dtype))

    def _combine_shapes(self, round: int, arrived: int) -> None:
        """What the server's step changes: tensors, moments, merges; as shapes."""
        specs = self._manifest(round).specs
        mean: Tensors = {s.name: torch.empty(s.shape, device="meta") for s in specs}
        uploads = None
        if not self.method.linear:
            uploads = {s.name: torch.empty(arrived, *s.shape, device="meta") for s in specs}
        context = AggregateContext(round, self.network.sites, self.network.scale, self.options)
        weights = torch.full((arrived,), 1 / max(arrived, 1), dtype=torch.float64, device="meta")
        stepped, optimizer = server_step(self.config.server_optimizer, self.state, mean)
        # What a method changes follows from what was trained and how many answered; no method's
        # phases are longer than two rounds (``tensors.covered_names`` rests on it, too).
        key = (tuple(mean), arrived, min(round, 2 + round % 2))
        if key not in self._updates:
            self._updates[key] = self.method.aggregate(
                self.state, stepped, uploads, weights, context
            )
        update = self._updates[key]
        self.state = apply_update(self.state, update, round, self.network.scale, optimizer)


def _nothing(chosen: np.ndarray) -> LocalResult:
    """The result of clients that saw no example."""
    none = np.zeros(len(chosen), dtype=np.int64)
    return LocalResult({}, none.astype(np.float64), none, none, none, none, 0, 0)
