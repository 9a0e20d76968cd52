"""Canaries through the real client: what the observers see, and what the bounds make of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ffalora_cli.audit.canary import canaries as room
from ffalora_cli.audit.canary.canaries import run_canaries, step_weights
from ffalora_cli.audit.canary.canary_engine import Canaries, CanaryEngine
from ffalora_cli.audit.mechanism.surrogate import (
    Subject,
    SurrogateRows,
    build_subject,
    some_clients,
)
from ffalora_cli.compose.jobs import plan as plan_jobs
from ffalora_cli.engine.stacked.engine import StackedEngine
from ffalora_cli.privacy.mechanism import example_level
from ffalora_cli.privacy.mechanism.batches import poisson_batch
from ffalora_cli.privacy.planning.make import make_plan

SECRET = b"canaries under test............."


def subject(*overrides: str, rows: int = 640, secret: bytes = SECRET) -> Subject:
    (job,) = plan_jobs(["federation.local_batch_size=32", *overrides])
    planned = make_plan(job.config.privacy, [rows] * 3, job.config.federation, ())
    assert planned is not None
    return build_subject(job.config, planned, secret)


@pytest.fixture(scope="module")
def audited() -> Subject:
    return subject()


def test_crafted_and_real_gradients_side_by_side(audited) -> None:
    network = audited.network
    rows = SurrogateRows(np.r_[np.arange(10), np.zeros(4, np.int64)], audited.config.task)
    made = Canaries(
        np.array([True, False, True, True, True]), np.array([0, 2, 3, 4]), 10, 7.0, b"k", ()
    )
    engine = CanaryEngine(network, rows, 512, canaries=made)
    trained = {
        s.name: torch.randn(1, *s.shape) * 0.1 for s in network.specs if s.factor == "lora_b"
    }
    common = {n: v for n, v in network.initial.items() if n not in trained}
    chosen = np.array([5, 4, 11, 0, 13])
    slots = np.zeros(5, np.int64)
    chosen = chosen[np.argsort(-rows.lengths[chosen], kind="stable")]
    losses, grads = engine.per_example_gradients(slots, chosen, trained, {}, common)
    plain = StackedEngine(network, rows, 512)
    shapes = {n: tuple(v.shape[1:]) for n, v in trained.items()}
    flat = torch.cat([g.flatten(1) for g in grads.values()], 1)
    for i, row in enumerate(chosen):
        if row < 10:
            _, one = plain.per_example_gradients(slots[:1], chosen[i : i + 1], trained, {}, common)
            expected = torch.cat([g.flatten(1) for g in one.values()], 1)[0]
            assert torch.allclose(flat[i], expected, rtol=1e-4, atol=1e-6)
        else:
            number = [0, 2, 3, 4][row - 10]
            (where,) = flat[i].nonzero().flatten().tolist()
            assert where == made.coordinates(shapes)[number]
            assert flat[i, where] == 7.0
    assert torch.isfinite(losses).all()
    assert len(set(made.coordinates(shapes))) == 5


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_both_observers_see_clipped_canaries_as_often_as_they_were_drawn(
    audited, momentum, monkeypatch
) -> None:
    """Without noise the sums are counts of draws, known from the sampler alone."""
    monkeypatch.setattr("ffalora_cli.privacy.mechanism.example_level.step_noise", silent)
    config = replace(
        audited.config, federation=replace(audited.config.federation, local_momentum=momentum)
    )
    quiet = replace(audited, config=config, plan=some_clients(audited.plan, 1))
    monkeypatch.setattr(room, "REAL_ROWS", 0.0)
    simulation, engine = room._federation(quiet, 300, rounds=3)
    steps: list[np.ndarray] = []
    changes: list[np.ndarray] = []
    room._play(simulation, engine, lambda g: steps.append(g.copy()), changes.append)
    plan, protocol = quiet.plan, config.federation
    unit = plan.max_grad_norm / plan.expected_batch[0]
    included = np.flatnonzero(engine.canaries.included)
    taken = np.zeros((3, protocol.local_steps, 300))
    alone = np.ones((3, protocol.local_steps), bool)  # no real row in the batch
    for round in (1, 2, 3):
        for step in range(protocol.local_steps):
            units = np.arange(simulation.clients.num_units[0])  # real rows are units of one
            drawn = poisson_batch(SECRET, 0, round, step, units, float(plan.sample_rate[0]))
            alone[round - 1, step] = drawn.min(initial=10**6) >= engine.canaries.first_row
            drawn = drawn[drawn >= engine.canaries.first_row] - engine.canaries.first_row
            taken[round - 1, step, included[drawn]] = 1.0
    assert taken.sum() > 50
    found = np.array(steps).reshape(taken.shape) / unit
    assert np.abs(found - taken)[alone].max() < 1e-6
    assert np.abs(found - taken).max() < 0.5
    assert 0 < alone.all(1).sum() < 3
    for change, round, clean in zip(changes, taken, alone.all(1), strict=True):
        seen = -change / (protocol.local_lr * unit)
        assert np.abs(seen - step_weights(protocol) @ round).max() < (1e-4 if clean else 5)


def silent(layout, clients, sd, secret, round, step, *rest):
    return torch.zeros(len(clients), sum(math.prod(shape) for shape in layout.values()))


def test_a_clean_run_stays_below_its_claim(audited) -> None:
    found = run_canaries(audited)
    claim = float(audited.plan.epsilon_planned.max())
    assert [b.observer for b in found] == ["every step"] * 4 + ["round upload"] * 4
    assert all(0 < b.epsilon_lower < claim for b in found)
    by_name = {(b.observer, b.name): b for b in found}
    assert by_name["every step", "one-run f-DP"].epsilon_lower > 0.4 * claim
    assert {b.name for b in found if b.rigorous} == {"one-run", "one-run f-DP"}
    short = [run_canaries(audited, canaries=200, steps=20) for _ in range(2)]
    assert short[0] == short[1]  # a function of the audit's secret alone


def test_noise_that_is_far_too_small_is_noticed_by_both_observers(audited, monkeypatch) -> None:
    honest = example_level.step_noise

    def weak(layout, clients, sd, *rest):
        return honest(layout, clients, sd * 0.2, *rest)

    monkeypatch.setattr("ffalora_cli.privacy.mechanism.example_level.step_noise", weak)
    claim = float(audited.plan.epsilon_planned.max())
    rigorous = [b for b in run_canaries(audited, canaries=2000) if b.rigorous]
    for observer in ("every step", "round upload"):
        assert max(b.epsilon_lower for b in rigorous if b.observer == observer) > claim


def test_a_missing_clip_is_noticed(audited, monkeypatch) -> None:
    monkeypatch.setattr(
        "ffalora_cli.engine.stacked.clipped_sums.factors",
        lambda squares, rule: torch.ones_like(squares),
    )
    rigorous = [b for b in run_canaries(audited, canaries=2000) if b.rigorous]
    claim = float(audited.plan.epsilon_planned.max())
    assert max(b.epsilon_lower for b in rigorous) > claim


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(("method=lora",), marks=pytest.mark.slow),
        pytest.param(("method=rolora",), marks=pytest.mark.slow),
        ("method=fedsa_lora",),
        pytest.param(("federation.local_optimizer=adamw",), marks=pytest.mark.slow),
        ("federation.wire_dtype=bfloat16", "federation.local_momentum=0.9"),
    ],
    ids=" ".join,
)
def test_every_kind_of_run_can_be_audited(overrides) -> None:
    one = subject(*overrides, "federation.rounds=5")
    found = run_canaries(one, canaries=800)
    claim = float(one.plan.epsilon_planned.max())
    assert all(0 <= b.epsilon_lower < claim for b in found if b.rigorous)
    assert found[3].epsilon_lower > 0.25 * claim  # the fit by step: signal arrives in every kind


@pytest.mark.slow
def test_the_target_at_epsilon_six() -> None:
    """5,000 canaries, 2,000 steps: f-DP at least 45 % of the claim by step, never above it."""
    shares = []
    for number in range(6):
        one = subject(
            "federation.rounds=200",
            "federation.local_batch_size=200",
            rows=10_000,
            secret=bytes([number]) * 32,
        )
        claim = float(one.plan.epsilon_planned.max())
        found = run_canaries(one)
        assert all(b.epsilon_lower < claim for b in found if b.rigorous)
        shares.append(found[1].epsilon_lower / claim)
    assert np.mean(shares) >= 0.45
