"""Checks that every noisy step is charged before it is used, and counted in epsilon.

Epsilon is computed a second time here, by dp-accounting's own events, from what was observed.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from ffalora_cli.audit.mechanism.draws import Draws, endless
from ffalora_cli.audit.mechanism.observe import Watched
from ffalora_cli.audit.mechanism.surrogate import Subject
from ffalora_cli.audit.mechanism.uploads import Played
from ffalora_cli.audit.outcome import Check
from ffalora_cli.privacy.claim.spent import spent

TOLERANCE = 1e-3  # relative: two discretisations of the same privacy loss


def accounting_checks(subject: Subject, empty: Draws, played: Played) -> list[Check]:
    """The battery on ledger and accountant."""
    return [
        charged(played),
        empty_batches(empty),
        composition(subject, played),
        claim(subject),
        budget(subject),
    ]


def charged(played: Played) -> Check:
    """Ledger = optimiser steps with noise, for each client, already when the upload is made."""
    worst, steps = 0, 0
    for one in played.seen:
        steps += len(one.gradients)
        if one.charged is not None:
            worst = max(worst, int(np.abs(one.charged - steps).max()))
    return Check(
        name="every step is charged",
        statistic=float(worst),
        limit=0.0,
        p_value=None,
        passed=worst == 0 and steps > 0,
        text=f"ledger and steps of a client differ by {worst} at most, over {steps} steps",
    )


def empty_batches(empty: Draws) -> Check:
    """An empty batch is a step: noise is drawn, for every tensor, and it is charged."""
    silent = int((empty.squares == 0.0).sum())
    rounds, steps = empty.squares.shape[:2]
    missing = empty.asked - rounds * steps
    uncharged = int(np.abs(empty.charged - empty.asked).max())
    return Check(
        name="empty batches are noise-only steps",
        statistic=float(silent + missing + uncharged),
        limit=0.0,
        p_value=None,
        passed=silent == missing == uncharged == 0,
        text=f"of {empty.asked:,} empty steps a client {missing:,} are missing, {uncharged:,} not "
        f"charged; {silent:,} of {empty.squares.size:,} draws are zero",
    )


def composition(subject: Subject, played: Played) -> Check:
    """Epsilon after all played rounds is that of one accountant over all their steps."""
    ledger, plan = played.simulation.privacy_ledger, subject.plan
    assert ledger is not None
    steps = sum(len(one.gradients) for one in played.seen)
    reported = spent(endless(plan), ledger.steps_before(len(played.seen) + 1), exact=True)
    client = int(plan.epsilon_planned.argmax())
    own = second_opinion(
        float(plan.noise_multiplier[client]),
        float(plan.sample_rate[client]),
        steps,
        plan.accountant.delta,
    )
    return _at_least(
        "epsilon counts all rounds",
        float(reported[client]),
        own,
        f"after {len(played.seen)} rounds {reported[client]:.4f} is reported, "
        f"{steps} steps cost {own:.4f}",
    )


def claim(subject: Subject) -> Check:
    """The planned epsilon is not below that of its own rate, noise and steps."""
    plan = subject.plan
    client = int(plan.epsilon_planned.argmax())
    planned, steps = float(plan.epsilon_planned[client]), int(plan.planned_steps[client])
    own = second_opinion(
        float(plan.noise_multiplier[client]),
        float(plan.sample_rate[client]),
        steps,
        plan.accountant.delta,
    )
    return _at_least(
        "planned epsilon",
        planned,
        own,
        f"{planned:.4f} is claimed, {steps:,} planned steps cost {own:.4f}",
    )


def budget(subject: Subject) -> Check:
    """No client goes on after its planned steps."""
    plan = subject.plan
    steps = np.full(plan.num_clients, plan.steps_per_round, dtype=np.int64)
    one_round = replace(plan, planned_steps=steps, planned_rounds=np.ones_like(steps))
    simulation = subject.simulation(one_round)
    watched = Watched(simulation, idle=True)
    for round in (1, 2):
        watched.play(round)
    beyond = sum(len(one.job.clients) for one in watched.seen[1:])
    return Check(
        name="nobody passes the plan",
        statistic=float(beyond),
        limit=0.0,
        p_value=None,
        passed=beyond == 0,
        text=f"{beyond} clients took part after their last planned round",
    )


@lru_cache(maxsize=64)
def second_opinion(noise: float, rate: float, steps: int, delta: float) -> float:
    """Epsilon by dp-accounting's events (PLD, add/remove one), apart from ``privacy``."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
    from dp_accounting.pld import PLDAccountant

    if noise <= 0.0:
        return float("inf")
    if steps == 0:
        return 0.0
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    step = PoissonSampledDpEvent(rate, GaussianDpEvent(noise))
    accountant.compose(SelfComposedDpEvent(step, steps))
    return float(accountant.get_epsilon(delta))


def _at_least(name: str, reported: float, own: float, text: str) -> Check:
    short = own - reported
    limit = TOLERANCE * own
    return Check(name, short, limit, None, bool(short <= limit), text)
