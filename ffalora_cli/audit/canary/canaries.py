"""Sends gradient canaries through a run's own client code, and bounds epsilon by them.

A canary is a unit whose gradient has a coordinate of its own and a norm far above the clip; where
units may have several rows, every other canary has five, each with that gradient. A fair
coin puts it among a client's units or leaves it out; from there on everything is the run's: Poisson
sampler, clip, sum, noise, divisor, optimiser, packed upload. Two observers look at the canary's
coordinate: one sees the gradient of every step, the other (a curious server) what was uploaded.
Clip and noise are not told to them: both are in what they see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ffalora_cli import keys
from ffalora_cli.audit.canary.canary_engine import Canaries, CanaryEngine
from ffalora_cli.audit.canary.guessing import Claim, Sight, measure, plan_guesses
from ffalora_cli.audit.mechanism.surrogate import (
    DISTINCT_ROWS,
    SEVERAL,
    WIDTH,
    Subject,
    clients_of_units,
    some_clients,
    surrogate_network,
    surrogate_rows,
)
from ffalora_cli.audit.outcome import Bound
from ffalora_cli.config.schema import FederationConfig
from ffalora_cli.engine.job import LocalJob, LocalResult
from ffalora_cli.federation.roles import covered_names, exchanged_specs, personal_names
from ffalora_cli.federation.simulation import Simulation
from ffalora_cli.federation.wire.contract import Receipt
from ffalora_cli.methods import registry

NORM = 1000.0  # of a canary's gradient, in units of the clip
REAL_ROWS = 0.02  # expected a step beside the canaries: a real gradient costs a forward pass
WIDTHS = (64, 96, 128, 192, 256)  # of the surrogate, until every canary has a coordinate


def run_canaries(subject: Subject, canaries: int = 5000, steps: int | None = None) -> list[Bound]:
    """One-run bounds for a subject's client with the largest epsilon.

    Args:
        subject: its plan, protocol and secret are used; the surrogate is rebuilt wide enough.
        canaries: coins; fewer where the widest surrogate trains and uploads fewer coordinates.
        steps: local steps to take, in whole rounds; all planned ones by default. With fewer, claim
            and bounds are about these.

    Returns:
        Bounds of the observer of every step, then those of the observer of the uploads.
    """
    plan, protocol = some_clients(subject.plan, 1), subject.config.federation
    most = int(plan.planned_steps[0])
    rounds = max(1, min(steps or most, most) // plan.steps_per_round)
    noise, rate = float(plan.noise_multiplier[0]), float(plan.sample_rate[0])
    claim = Claim(noise, rate, rounds * plan.steps_per_round, plan.accountant.delta)
    simulation, engine = _federation(replace(subject, plan=plan), canaries, rounds)
    included = engine.canaries.included
    step_sight = Sight(rate, 1, noise, claim.steps)
    weights = step_weights(protocol)
    round_noise = noise * float(np.sqrt((weights**2).sum())) / float(weights.mean())
    round_sight = Sight(rate, protocol.local_steps, round_noise, rounds)
    step_scores, round_scores = np.zeros(len(included)), np.zeros(len(included))
    unit = plan.max_grad_norm / float(plan.expected_batch[0])  # of a canary in a step's gradient

    def see_step(gradient: np.ndarray) -> None:
        step_scores[:] += step_sight.ratio(gradient / unit)

    def see_upload(change: np.ndarray) -> None:
        if protocol.local_optimizer == "sgd":
            seen = -change / (protocol.local_lr * unit * weights.mean())
        else:  # not linear in the gradients: only the order of the changes is used
            seen = -change * (round_noise / max(float(change.std()), 1e-30))
        round_scores[:] += round_sight.ratio(seen)

    _play(simulation, engine, see_step, see_upload)
    found = []
    for observer, scores, sight in (
        ("every step", step_scores, step_sight),
        ("round upload", round_scores, round_sight),
    ):
        guesses = plan_guesses(sight, len(included), claim)
        found += measure(scores, included, guesses, claim, observer)
    return found


def step_weights(protocol: FederationConfig) -> np.ndarray:
    """How often each local step's gradient is applied within a round of SGD ``[local_steps]``.

    Momentum adds it again to every later step, times ``local_momentum`` each time; the optimiser
    starts afresh every round.
    """
    left = np.arange(protocol.local_steps, 0, -1)
    return (protocol.local_momentum ** np.arange(protocol.local_steps)).cumsum()[left - 1]


def _federation(subject: Subject, canaries: int, rounds: int) -> tuple[Simulation, CanaryEngine]:
    """The run's federation of one client whose rows are a few real ones and its canaries."""
    config, plan = subject.config, subject.plan
    method = registry.get(config.method.name)
    for width in (w for w in WIDTHS if w >= WIDTH):
        network = surrogate_network(config, width)
        phases = exchanged_specs(network, method, config.head)
        personal = personal_names(network, method, config.head)
        room = min(sum(s.size for s in phase if s.name not in personal) for phase in phases)
        if room >= canaries:
            break
    coins = keys.numpy_generator(keys.derive(subject.secret, "canary coins"))
    included = coins.random(min(canaries, room)) < 0.5
    real = max(1, min(int(plan.examples[0]), round(REAL_ROWS / float(plan.sample_rate[0]))))
    inside = np.flatnonzero(included)
    several = SEVERAL if subject.clients.units is not None else 1
    sizes = np.where(np.arange(len(inside)) % 2, several, 1)
    units = np.array([real + len(inside)])
    unread = np.zeros(int(sizes.sum()), np.int64)  # no model sees a canary's row
    rows = surrogate_rows(np.r_[np.arange(real) % DISTINCT_ROWS, unread], config, network)
    plan = replace(plan, examples=units, covered=covered_names(network, method, config.head))
    clients = clients_of_units(np.concatenate([np.ones(real, np.int64), sizes]), units)
    wide = replace(subject, plan=plan, clients=clients, network=network, examples=rows)
    simulation = wide.simulation(rounds=rounds)
    key, norm = keys.derive(subject.secret, "canaries"), NORM * plan.max_grad_norm
    made = Canaries(included, np.repeat(inside, sizes), real, norm, key, personal)
    engine = CanaryEngine(network, rows, wide.max_tokens, ghost_norms=False, canaries=made)
    return simulation, engine


def _play(
    simulation: Simulation,
    engine: CanaryEngine,
    see_step: Callable[[np.ndarray], None],
    see_upload: Callable[[np.ndarray], None],
) -> None:
    """Play all rounds before the eyes of both observers, who look at the canaries' coordinates."""

    def answer(asked: LocalJob | Receipt) -> LocalResult | None:
        if isinstance(asked, LocalJob):
            return engine.train(asked)
        sent = engine.start | {n: v[0] for n, v in asked.uploads.items() if n in engine.start}
        change = [(sent[name] - start).flatten() for name, start in engine.start.items()]
        see_upload(torch.cat(change).numpy()[engine.canaries.coordinates(engine.shapes)])
        return None

    engine.see_step = see_step
    for _ in simulation.rounds(answer):
        pass
