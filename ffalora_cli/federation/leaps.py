"""Leaps of a rehearsal: rounds like those just played are counted, not played.

With every client in every round, what is sent repeats every second round once the first ones are
over (no method's phases are longer), and a leap is exact. It ends where something changes: at the
last round, where a client's budget does, and where the number of a round, which travels with a
merge, gets another digit. With drawn cohorts the last thousand rounds stand for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ffalora_cli.federation.rehearsal import Rehearsal

_CYCLE = 2  # rounds of the longest phases of a method
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
    config, at = rehearsal.config, rehearsal.state.round
    drawn = config.cohort_sampling != "full" or config.dropout_rate or config.straggler_rate
    left = config.rounds - at
    if drawn:
        if at != _PLAYED or left < SAMPLE:
            return True
        _repeat(rehearsal, SAMPLE, left // SAMPLE)
        return False
    times = min(left, _affordable(rehearsal), 10 ** len(str(at)) - 1 - at) // _CYCLE
    if times > _ALIKE and _repeats(rehearsal):
        _repeat(rehearsal, _CYCLE, times)
    return True


def _repeats(rehearsal: Rehearsal) -> bool:
    """Whether the last cycles sent the same to the same clients, and left as many merges."""
    at, history = rehearsal.state.round, rehearsal.history
    alike = _CYCLE * _ALIKE
    kept = {played.merges for played in islice(reversed(history), alike)}
    if len(history) < alike or len(kept) > 1:
        return False
    sent = [
        [{**row, "round": 0} for row in rehearsal.communication.rows(number)]
        for number in range(at - alike + 1, at + 1)
    ]
    return all(one == other for one, other in zip(sent[_CYCLE:], sent[:-_CYCLE], strict=True))


def _affordable(rehearsal: Rehearsal) -> int:
    """Rounds before the first client's budget ends."""
    plan, ledger = rehearsal.plan, rehearsal.privacy_ledger
    if plan is None or ledger is None:
        return rehearsal.config.rounds
    left = (plan.planned_steps - ledger.steps_taken) // plan.steps_per_round
    return int(left[left > 0].min(initial=rehearsal.config.rounds))


def _repeat(rehearsal: Rehearsal, window: int, times: int) -> None:
    """The last ``window`` rounds ``times`` more; versions and dates move along."""
    state, ahead = rehearsal.state, window * times
    plan, ledger = rehearsal.plan, rehearsal.privacy_ledger
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
    rehearsal.state = replace(
        state,
        round=state.round + ahead,
        versions={n: v + ahead if v in rounds else v for n, v in state.versions.items()},
        merges=tuple(replace(merge, round=merge.round + ahead) for merge in state.merges),
    )
