"""Hides rows that nobody would write among a language model's, and looks for them in what it says.

A canary is a row of tokens drawn evenly, its answer too. A fair coin puts it among a client's rows
or leaves it out; training is the run's own. Whoever has the released model, and no more, then asks
of every canary how much its answer's loss fell, which is what memorising a row looks like. Far
weaker than a gradient of one's own making, and what the public can do.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ffalora_cli import keys
from ffalora_cli.audit.canary.bounds import CONFIDENCE, one_run
from ffalora_cli.audit.mechanism.surrogate import (
    Subject,
    SurrogateRows,
    clients_of_units,
    some_clients,
)
from ffalora_cli.audit.outcome import Bound
from ffalora_cli.engine.evaluate import predict
from ffalora_cli.types import Tensors

STEPS = 80  # local steps: some ten seconds; what is shown of these holds of all
GUESSED = 0.4  # of the coins, fixed beforehand: the surest half in, the surest half out


def hidden_answers(subject: Subject, canaries: int = 200, steps: int = STEPS) -> Bound:
    """A bound for the subject's client with the largest epsilon, by the released model alone.

    Args:
        subject: of a language model; its plan, protocol and secret are used.
        canaries: coins.
        steps: local steps to take, in whole rounds, and no more than planned.
    """
    plan = some_clients(subject.plan, 1)
    coins = keys.numpy_generator(keys.derive(subject.secret, "answers"))
    included = coins.random(canaries) < 0.5
    owned = np.flatnonzero(included)
    # Row 0 is the client's own: its units are one at least, whatever the coins say.
    rows = SurrogateRows(np.arange(canaries + 1), subject.config.task, canaries + 1)
    units = np.array([len(owned) + 1])
    clients = clients_of_units(np.ones(units[0], np.int64), units)
    clients = replace(clients, rows=np.r_[0, owned + 1])
    alone = replace(subject, plan=replace(plan, examples=units), clients=clients, examples=rows)
    most = max(1, min(steps, int(plan.planned_steps[0])) // plan.steps_per_round)
    simulation = alone.simulation(rounds=most)
    before = _losses(alone, simulation.tensors)
    for _ in simulation.rounds():
        pass
    fallen = (before - _losses(alone, simulation.tensors))[1:]
    order, half = np.argsort(fallen, kind="stable"), round(GUESSED * canaries / 2)
    right = int(included[order[-half:]].sum() + (~included[order[:half]]).sum())
    value = one_run(canaries, 2 * half, right, plan.accountant.delta)
    text = f"{right} of {2 * half} guesses right, {canaries} rows of random answers, {most} rounds"
    return Bound("answers", value, CONFIDENCE, True, "released model", text)


def _losses(subject: Subject, values: Tensors) -> np.ndarray:
    """Loss of every row's answer, float64 ``[rows]``."""
    return predict(subject.network, subject.examples, values, 2048).by_row()
