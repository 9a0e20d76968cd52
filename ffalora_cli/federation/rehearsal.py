"""Plays a federation without training: who takes part, what is sent, who pays; not one gradient.

What travels depends on names and shapes alone, so the rounds are played with the real cohorts,
dropouts, downlink plans, methods and payload headers; what an exchange leaves behind is counted, on
tensors without values (torch's ``meta`` device). The communication ledger comes out as a run writes
it, byte for byte, unless the run ends early (uploads refused) or cohorts are drawn from a secret
that does not exist yet (``privacy.noise=secure``): then they are others of the same distribution.

Of a million rounds not every one is played: rounds like the last ones are counted. With every
client in every round, what is sent repeats with the method's cycle once the first ones are over,
and a leap is exact. It ends where something changes: at the last round, where a client's budget
does, and where the number of an exchange, which travels with a merge, gets another digit. With
drawn cohorts the last thousand rounds stand for the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch

from ffalora_cli.engine.job import LocalResult
from ffalora_cli.federation.cohort.clients import ClientStates
from ffalora_cli.federation.cohort.cohort import Cohort, is_last
from ffalora_cli.federation.roles import initial_state
from ffalora_cli.federation.round import Ledgers, Playing, at_rank, drive, play, send
from ffalora_cli.federation.server.release import ClientRelease
from ffalora_cli.federation.server.server import apply_update, server_step
from ffalora_cli.federation.setting import Setting
from ffalora_cli.federation.wire.codecs import describe
from ffalora_cli.federation.wire.ledger import CommunicationLedger
from ffalora_cli.federation.wire.payload import WireDtype, lines
from ffalora_cli.privacy.ledger import PrivacyLedger
from ffalora_cli.types import Dense, Kind, PayloadItem, ServerState, ServerUpdate, Tensors, kind_of


@dataclass(frozen=True)
class Rehearsed:
    """What a run would leave behind, but for the values of its tensors."""

    communication: CommunicationLedger
    rounds: int  # fewer than asked for where nobody's budget affords another
    participations: np.ndarray  # int64 [num_clients], rounds each client was sent
    state: ServerState  # after the last round, on the meta device: shapes only
    exact: bool = True  # False: rounds with drawn cohorts stand for others


def rehearse(setting: Setting, leaps: bool = True) -> Rehearsed:
    """Play all rounds of a federation, from the first, without training.

    Args:
        setting: stays as it is.
        leaps: rounds that repeat are multiplied, not played.
    """
    rehearsal, exact = Rehearsal(setting), True
    while not is_last(setting, rehearsal.privacy_ledger, rehearsal.state.round):
        rehearsal.play(rehearsal.state.round + 1)
        exact &= not leaps or leap(rehearsal)
    return Rehearsed(
        rehearsal.communication,
        rehearsal.state.round,
        rehearsal.participations,
        rehearsal.state,
        exact,
    )


class Rehearsal:
    """Rounds whose exchanges are counted, and what they leave behind."""

    def __init__(self, setting: Setting) -> None:
        count, plan = len(setting.clients), setting.plan
        self.setting = setting
        self.state = initial_state(setting.network)
        self.client_states = ClientStates(count)
        self.communication = CommunicationLedger(count)
        self.privacy_ledger: PrivacyLedger | None = None
        if plan is not None:
            self.privacy_ledger = PrivacyLedger(plan.noise_multiplier, plan.accounted_rate)
        self.participations = np.zeros(count, dtype=np.int64)
        self.history: deque[Played] = deque(maxlen=SAMPLE)
        self._shapes = {n: value.to("meta") for n, value in setting.network.initial.items()}
        self._updates: dict[tuple[int, int], ServerUpdate] = {}

    def play(self, round: int) -> None:
        """One round; nobody is asked for anything."""
        taken = self.privacy_ledger.steps_taken.copy() if self.privacy_ledger else 0
        playing = play(self.setting, self.state, self, round, self._exchange)
        self.state, _ = drive(playing, lambda asked: None)
        chosen = np.flatnonzero(self.client_states.last_round == round)
        self.participations[chosen] += 1
        charged = self.privacy_ledger.steps_taken - taken if self.privacy_ledger else None
        self.history.append(Played(chosen, charged, len(self.state.merges)))

    def _exchange(
        self, setting: Setting, state: ServerState, ledgers: Ledgers, cohort: Cohort, number: int
    ) -> Playing:
        """Count what is sent and uploaded (all of a rank have one size), and combine shapes."""
        yield from ()
        send(setting, state, ledgers, cohort.ids, number, _lines)
        round, place = setting.place(number)
        for rows, rank in setting.by_rank(cohort.ids):
            sizes = lines(setting.manifest(number, rank).entries)
            ledgers.communication.add(round, "uplink", cohort.ids[rows], sizes, place)
        arrived = cohort.ids[~cohort.late]
        if len(arrived) or isinstance(setting.release(number), ClientRelease):
            state = self._combine(state, number, arrived)
        return state, [_nothing(cohort.ids)] if len(cohort.ids) else [], [], {}

    def _combine(self, state: ServerState, number: int, arrived: np.ndarray) -> ServerState:
        """What the server's step changes: tensors, moments, merges; as shapes."""
        setting, count = self.setting, len(arrived)
        specs = setting.manifest(number).specs
        mean: Tensors = {s.name: torch.empty(s.shape, device="meta") for s in specs}
        uploads = None
        if not setting.method.linear:
            uploads = {s.name: torch.empty(count, *s.shape, device="meta") for s in specs}
        weights = torch.full((count,), 1 / max(count, 1), dtype=torch.float64, device="meta")
        whole = replace(state, tensors=self._shapes)
        stepped, optimizer = server_step(setting.config.server_optimizer, whole, mean)
        # What a method changes follows from the place in its cycle and from how many answered; the
        # first cycle may differ from all later ones.
        cycle = len(setting.method.cycle) * setting.method.exchanges()
        key = (count, number if number <= cycle else cycle + number % cycle + 1)
        if key not in self._updates:
            context = setting.context(number)
            self._updates[key] = setting.method.aggregate(whole, stepped, uploads, weights, context)
        update = self._updates[key]
        if update.own:
            items: list[PayloadItem] = [
                Dense(n, kind_of(n), values[:1]) for n, values in update.own.items()
            ]
            round, place = setting.place(number)
            for rows, rank in setting.by_rank(arrived):
                sizes = _lines(at_rank(setting, items, rank), setting.config.wire_dtype)
                self.communication.add(round, "downlink", arrived[rows], sizes, place)
        return apply_update(state, update, number, setting.network.scale, optimizer)


def _lines(items: Sequence[PayloadItem], wire_dtype: WireDtype) -> Mapping[Kind, int]:
    """Bytes by kind of a payload with these names and shapes."""
    return lines(describe(items, wire_dtype))


def _nothing(ids: np.ndarray) -> LocalResult:
    """The result of clients that saw no example."""
    none = np.zeros(len(ids), dtype=np.int64)
    return LocalResult({}, none.astype(np.float64), none, none, none, none, 0, 0)


_ALIKE = 3  # cycles that have to be alike


_PLAYED, SAMPLE = 2000, 1000  # rounds with drawn cohorts: played at least, and repeated


@dataclass(frozen=True)
class Played:
    """What of one round a leap has to know."""

    chosen: np.ndarray  # int64 [cohort]
    charged: np.ndarray | None  # steps, int64 [num_clients]; None without privacy
    merges: int  # kept afterwards


def leap(rehearsal: Rehearsal) -> bool:
    """Count rounds that are like the last ones, as many as there are.

    Args:
        rehearsal: after a round; afterwards after a later one, or where it was.

    Returns:
        False if the rounds leapt over were drawn, so that these stand for others.
    """
    config, at = rehearsal.setting.config, rehearsal.state.round
    drawn = config.cohort_sampling != "full" or config.dropout_rate or config.straggler_rate
    left = config.rounds - at
    if drawn:
        if at != _PLAYED or left < SAMPLE:
            return True
        _repeat(rehearsal, SAMPLE, left // SAMPLE)
        return False
    cycle = len(rehearsal.setting.method.cycle)
    each = rehearsal.setting.method.exchanges()
    same_digits = (10 ** len(str(at * each)) - 1 - at * each) // each
    times = min(left, _affordable(rehearsal), same_digits) // cycle
    if times > _ALIKE and _repeats(rehearsal, cycle):
        _repeat(rehearsal, cycle, times)
    return True


def _repeats(rehearsal: Rehearsal, cycle: int) -> bool:
    """Whether the last cycles sent the same to the same clients, and left as many merges."""
    at, history = rehearsal.state.round, rehearsal.history
    alike = cycle * _ALIKE
    kept = {played.merges for played in islice(reversed(history), alike)}
    if len(history) < alike or len(kept) > 1:
        return False
    sent = [
        [{**row, "round": 0} for row in rehearsal.communication.rows(number)]
        for number in range(at - alike + 1, at + 1)
    ]
    return all(one == other for one, other in zip(sent[cycle:], sent[:-cycle], strict=True))


def _affordable(rehearsal: Rehearsal) -> int:
    """Rounds before the first client's budget ends."""
    plan, ledger = rehearsal.setting.plan, rehearsal.privacy_ledger
    if plan is None or ledger is None:
        return rehearsal.setting.config.rounds
    left = (plan.planned_steps - ledger.steps_taken) // plan.steps_per_round
    return int(left[left > 0].min(initial=rehearsal.setting.config.rounds))


def _repeat(rehearsal: Rehearsal, window: int, times: int) -> None:
    """The last ``window`` rounds ``times`` more; versions and dates move along."""
    state, ahead = rehearsal.state, window * times
    plan, ledger = rehearsal.setting.plan, rehearsal.privacy_ledger
    rounds = range(state.round - window + 1, state.round + 1)
    rehearsal.communication.repeat(rounds, times)
    last = rehearsal.client_states.last_round
    last[last > 0] += ahead
    for played in islice(reversed(rehearsal.history), window):
        rehearsal.participations[played.chosen] += times
        if played.charged is not None and ledger is not None:
            ledger.steps_taken += times * played.charged
    if (
        plan is not None and ledger is not None
    ):  # drawn, somebody may come out above what nobody can spend
        ledger.steps_taken = np.minimum(ledger.steps_taken, plan.planned_steps)
    rehearsal.history.clear()
    each = rehearsal.setting.method.exchanges()
    recent = range((rounds.start - 1) * each + 1, state.round * each + 1)
    moved = {n: v + ahead * each for n, v in state.versions.items() if v in recent}
    rehearsal.state = replace(
        state,
        round=state.round + ahead,
        versions={**state.versions, **moved},
        merges=tuple(replace(m, exchange=m.exchange + ahead * each) for m in state.merges),
    )
