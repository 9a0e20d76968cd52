"""Checks that every noisy step is charged before it is used, and counted in epsilon.

Epsilon is computed a second time here, by dp-accounting's own events, from what was observed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np

from ffalora_cli.audit.mechanism.draws import Draws, endless
from ffalora_cli.audit.mechanism.observe import Watched
from ffalora_cli.audit.mechanism.surrogate import Subject
from ffalora_cli.audit.mechanism.uploads import Played
from ffalora_cli.audit.outcome import Check, exact, within
from ffalora_cli.privacy.claim.spent import spent
from ffalora_cli.privacy.planning.plan import PrivacyPlan

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
    text = f"ledger and steps of a client differ by {worst} at most, over {steps} steps"
    return Check("every step is charged", float(worst), 0.0, None, worst == 0 < steps, text)


def empty_batches(empty: Draws) -> Check:
    """An empty batch is a step: noise is drawn, for every tensor, and it is charged."""
    silent = int((empty.squares == 0.0).sum())
    rounds, steps = empty.squares.shape[:2]
    missing = empty.asked - rounds * steps
    uncharged = int(np.abs(empty.charged - empty.asked).max())
    return exact(
        "empty batches are noise-only steps",
        silent + missing + uncharged,
        f"of {empty.asked:,} empty steps a client {missing:,} are missing, {uncharged:,} not "
        f"charged; {silent:,} of {empty.squares.size:,} draws are zero",
    )


def composition(subject: Subject, played: Played) -> Check:
    """Epsilon after all played rounds is that of one accountant over all their steps."""
    ledger, plan = played.simulation.privacy_ledger, subject.plan
    assert ledger is not None
    steps = sum(len(one.gradients) for one in played.seen)
    reported = spent(endless(plan), ledger.steps_before(len(played.seen) + 1), exact=True)
    client = int(plan.epsilon_planned.argmax())
    began = f"after {len(played.seen)} rounds {reported[client]:.4f} is reported, {steps} steps"
    return not_below("epsilon counts all rounds", reported[client], plan, {client: steps}, began)


def claim(subject: Subject) -> Check:
    """The planned epsilon is not below that of its own rate, noise and steps."""
    plan = subject.plan
    client = int(plan.epsilon_planned.argmax())
    planned, steps = float(plan.epsilon_planned[client]), int(plan.planned_steps[client])
    began = f"{planned:.4f} is claimed, {steps:,} planned steps"
    return not_below("planned epsilon", planned, plan, {client: steps}, began)


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
    text = f"{beyond} clients took part after their last planned round"
    return exact("nobody passes the plan", beyond, text)


def not_below(
    name: str, said: float, plan: PrivacyPlan, steps: Mapping[int, int], text: str
) -> Check:
    """An epsilon that was said is not below the largest of clients' steps, computed anew.

    Args:
        name: of the check.
        said: epsilon.
        plan: rate and noise of each client, and delta.
        steps: taken, by client.
        text: the finding, to which the second epsilon is added.
    """
    noise, rate, delta = plan.noise_multiplier, plan.sample_rate, plan.accountant.delta
    taken = {(float(noise[client]), float(rate[client]), n) for client, n in steps.items()}
    own = max(second_opinion(*one, delta) for one in taken)
    return within(name, own - float(said), TOLERANCE * own, f"{text} cost {own:.4f}")


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
