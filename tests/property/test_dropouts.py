"""Random schedules of dropouts and stragglers; each client pays for what it computed."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch

from ffalora_cli.engine.job import LocalResult
from ffalora_cli.federation.cohort import dropouts
from ffalora_cli.federation.roles import initial_state
from ffalora_cli.privacy.claim.spent import spent
from tests.arrivals import CLIENT, CLIENTS, EXAMPLE, FEDERATION, NONE, SIZES, federate

ROUNDS = 4


class Nudge:
    """An engine without a model: every client adds its id + 1 to every trained value."""

    def train(self, job):
        count = len(job.clients)
        step = torch.from_numpy(job.clients + 1.0).float()
        trained = {
            n: job.start[n] + step.view(-1, *(1 for _ in job.start[n].shape[1:]))
            for n in job.trainable
        }
        zeros = np.zeros(count, np.int64)
        return LocalResult(trained, np.zeros(count), zeros + 1, zeros + 1, zeros, zeros, 0, 0)


@cache
def oracle_epsilon(noise: float, rate: float, steps: int) -> float:
    """Opacus' RDP accountant, fed one client's own steps."""
    from opacus.accountants import RDPAccountant

    if not steps:
        return 0.0
    accountant = RDPAccountant()
    accountant.history = [(noise, rate, steps)]
    return accountant.get_epsilon(1e-5)


@pytest.mark.parametrize("count", [100, pytest.param(500, marks=pytest.mark.slow)])
def test_schedules_complete_and_charge_each_client_its_own(count):
    generator = np.random.default_rng(0)
    base = federate(privacy=EXAMPLE, engine=Nudge(), rounds=ROUNDS)
    plan, ledger = base.plan, type(base.privacy_ledger)
    empty_rounds = everybody = 0
    for seed in range(count):
        drop, late = generator.choice([0.0, 0.2, 0.5, 0.9, 0.99], 2)
        cohort = int(generator.integers(1, CLIENTS + 1))
        sim = base
        sim.config = dataclasses.replace(
            FEDERATION,
            rounds=ROUNDS,
            dropout_rate=float(drop),
            straggler_rate=float(late),
            cohort_size=cohort,
            cohort_sampling="fixed",
        )
        sim.seed, sim.secret = seed, bytes([seed % 256, seed // 256])
        sim.privacy_ledger = ledger(plan.noise_multiplier, plan.accounted_rate)
        sim.state = initial_state(sim.network)
        computed = np.zeros(CLIENTS, dtype=int)
        for record in sim.rounds():
            ids = [line["client"] for line in record.clients]
            computed[ids] += 1
            metrics = record.metrics
            assert metrics["train/dropped_clients"] == cohort - len(ids)
            assert metrics["train/rejected_uploads"] == 0
            on_time = np.array(ids)[~dropouts.late(seed, record.round, np.array(ids, int), late)]
            assert metrics["train/late_uploads"] == len(ids) - len(on_time)
            empty_rounds += not len(on_time)
            everybody += len(on_time) == cohort
        assert sim.state.round == ROUNDS
        assert all(torch.isfinite(v).all() for v in sim.tensors.values())
        steps = computed * FEDERATION.local_steps
        assert sim.privacy_ledger.steps_taken.tolist() == steps.tolist()
        epsilon = spent(plan, sim.privacy_ledger.steps_taken)
        expected = [
            oracle_epsilon(float(s), float(q), int(t))
            for s, q, t in zip(plan.noise_multiplier, plan.sample_rate, steps, strict=True)
        ]
        np.testing.assert_allclose(epsilon, expected, rtol=1e-6)
    assert min(empty_rounds, everybody) > count / 5  # the schedules reach both ends


def test_the_mean_is_over_arrivals_with_their_own_weights():
    """Value after a round = value before + weighted mean of (id + 1) over who arrived in time."""
    sim = federate(privacy=NONE, engine=Nudge(), dropout_rate=0.4, straggler_rate=0.3, rounds=30)
    name = next(n for n in sim.tensors if n.endswith("lora_b"))
    arrivals = set()
    for round in range(1, 31):
        before = sim.tensors[name]
        sim.play(round)
        everybody = np.arange(CLIENTS)
        here = everybody[~dropouts.absent(0, round, everybody, 0.4)]
        here = here[~dropouts.late(0, round, here, 0.3)]
        arrivals.add(len(here))
        moved = np.average(here + 1.0, weights=SIZES[here]) if len(here) else 0.0
        assert abs(float((sim.tensors[name] - before).mean()) - moved) < 1e-4
    assert len(arrivals) > 3


def test_client_level_keeps_its_denominator_and_charges_everybody():
    sim = federate(
        privacy=dataclasses.replace(CLIENT, noise_multiplier=1e-1, max_grad_norm=1.0),
        engine=Nudge(),
        weights="uniform",
        dropout_rate=0.5,
        rounds=5,
    )
    sim.plan = dataclasses.replace(sim.plan, noise_multiplier=np.full(CLIENTS, 1e-9))
    for round in range(1, 6):
        before = sim.tensors
        arrived = CLIENTS - sim.play(round).metrics["train/dropped_clients"]
        change = torch.cat([(v - before[n]).flatten() for n, v in sim.tensors.items()])
        assert abs(float(change.norm()) - arrived / CLIENTS) < 1e-4  # each adds a unit vector / 7
        assert sim.privacy_ledger.steps_taken.tolist() == [round] * CLIENTS


def test_draws_are_a_function_of_seed_round_and_client():
    ids = np.arange(2000)
    for draw in (dropouts.absent, dropouts.late):
        hit = draw(1, 7, ids, 0.3)
        assert np.array_equal(draw(1, 7, ids[500:900:3], 0.3), hit[500:900:3])
        assert not np.array_equal(draw(1, 8, ids, 0.3), hit)
        assert not np.array_equal(draw(2, 7, ids, 0.3), hit)
        assert abs(hit.mean() - 0.3) < 5 * np.sqrt(0.21 / 2000)
        assert not draw(1, 7, ids, 0.0).any()
    both = dropouts.absent(1, 7, ids, 0.3) & dropouts.late(1, 7, ids, 0.3)
    assert abs(both.mean() - 0.09) < 5 * np.sqrt(0.09 * 0.91 / 2000)  # independent
