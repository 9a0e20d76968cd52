"""Leaps of a rehearsal: rounds like those just played are counted, not played.

With every client in every round, what is sent repeats with the method's cycle once the first ones
are over, and a leap is exact. It ends where something changes: at the last round, where a client's
budget does, and where the number of an exchange, which travels with a merge, gets another digit.
With drawn cohorts the last thousand rounds stand for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ffalora_cli.federation.rehearsal import Rehearsal

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
