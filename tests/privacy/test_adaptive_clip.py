"""The adaptive clip: its budget, its noise, and where it ends up."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from ffalora_cli import keys
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.privacy.claim.spent import spent
from ffalora_cli.privacy.claim.statement import statement
from ffalora_cli.privacy.ledger import PrivacyLedger
from ffalora_cli.privacy.mechanism.adaptive_clip import (
    count_noise_of,
    gradient_noise,
    next_clip,
    released_share,
)
from ffalora_cli.privacy.planning.make import make_plan
from tests.federation.test_simulation import FEDERATION, PRIVATE, simulate
from tests.privacy.cases import federation, privacy

SECRET = b"s" * 32
ADAPTIVE = dataclasses.replace(PRIVATE, clip_quantile=0.5, clip_count_noise=1.0)


def test_gradient_and_count_together_are_the_planned_mechanism():
    """Releasing both costs what one Gaussian of noise multiplier z costs: sensitivities whitened.

    One example moves (sum / C, 2 * count) by (1, 1) at most; in units of each noise the joint
    shift is sqrt(1 / gradient^2 + 1 / (2 count)^2), which has to be 1 / z.
    """
    z, counts = np.array([0.95, 1.4, 3.4]), np.array([10.0, 1.0, 2.0])
    gradient = gradient_noise(z, counts)
    shift = np.sqrt((1.0 / gradient) ** 2 + (0.5 / counts) ** 2)
    np.testing.assert_allclose(shift, 1 / z, rtol=1e-12)
    assert (gradient > z).all()


def test_the_plan_is_paid_by_both_and_claims_what_the_fixed_clip_would():
    sizes = [24_526, 20_373]
    fixed = make_plan(privacy(), sizes, federation(num_clients=2), ["a"])
    plan = make_plan(privacy(clip_quantile=0.5), sizes, federation(num_clients=2), ["a"])
    assert plan.epsilon_planned.tolist() == fixed.epsilon_planned.tolist()
    assert plan.count_noise.tolist() == [10.0, 10.0]  # batch 200 / 20
    wanted = [(1 / z**2 - 1 / 20.0**2) ** -0.5 for z in fixed.noise_multiplier]
    np.testing.assert_allclose(plan.added_noise, wanted, rtol=1e-12)
    again = [
        Accountant("rdp", 1e-5).epsilon([((1 / g**2 + 1 / 20.0**2) ** -0.5, 200 / n, 10_000)])
        for g, n in zip(plan.added_noise, sizes, strict=True)
    ]
    np.testing.assert_allclose(spent(plan, plan.planned_steps), again, rtol=1e-6)


def test_a_count_that_costs_too_much_is_refused_and_the_named_value_works():
    with pytest.raises(ConfigError) as error:
        make_plan(privacy(clip_quantile=0.5, clip_count_noise=0.3), [24_526], federation(), ["a"])
    text = str(error.value)
    assert len(text) <= 200 and "clip_count_noise=0.3" in text
    named = float(text.split("e.g. ")[1].split(",")[0])
    plan = make_plan(
        privacy(clip_quantile=0.5, clip_count_noise=named), [24_526], federation(), ["a"]
    )
    assert plan.noise_multiplier[0] < plan.added_noise[0] < 1.3 * plan.noise_multiplier[0]


def test_the_default_count_noise_follows_the_batch():
    assert count_noise_of(None, np.array([200.0, 16.0])).tolist() == [10.0, 0.8]
    assert count_noise_of(3.0, np.array([200.0, 16.0])).tolist() == [3.0, 3.0]


def shares(unclipped, seen, round=1, secret=SECRET, noise=2.0, steps=4, clients=None):
    clients = np.arange(len(unclipped)) if clients is None else clients
    return released_share(
        np.asarray(unclipped), np.asarray(seen), clients, round, steps,
        np.full(len(unclipped), 10.0), np.full(len(unclipped), noise), secret,
    )  # fmt: skip


def test_share_is_unbiased_with_the_noise_of_every_step():
    many = 20_000
    found = shares(np.full(many, 30), np.full(many, 40))
    assert found.mean() == pytest.approx(0.75, abs=5 * 0.1 / many**0.5)
    assert found.std() == pytest.approx(2.0 * math.sqrt(4) / (4 * 10.0), rel=0.03)


def test_one_example_moves_a_share_by_half_over_the_divisor():
    """Added unclipped or clipped: plus or minus 1/2 on the sum, whatever the others do."""
    base = shares([17], [40])
    step = 0.5 / (4 * 10.0)
    assert shares([18], [41]) - base == pytest.approx(step)
    assert shares([17], [41]) - base == pytest.approx(-step)


def test_count_noise_is_keyed_and_belongs_to_no_one_else():
    whole = shares([10, 20, 30], [40, 40, 40])
    assert shares([30], [40], clients=np.array([2]))[0] == whole[2]
    others = [shares([10], [40], round=2), shares([10], [40], secret=b"t" * 32)]
    assert all(other[0] != whole[0] for other in others)


def test_clip_moves_towards_the_quantile():
    assert next_clip(1.0, np.array([0.5, 0.5]), 0.5, 0.2) == 1.0
    assert next_clip(1.0, np.array([1.0]), 0.5, 0.2) == pytest.approx(math.exp(-0.1), rel=1e-6)
    assert next_clip(1.0, np.array([0.0]), 0.5, 0.2) == pytest.approx(math.exp(0.1), rel=1e-6)
    assert next_clip(1.0, np.array([-90.0]), 0.5, 0.2) == pytest.approx(math.exp(0.1), rel=1e-6)


def test_it_ends_at_the_median_of_lognormal_norms():
    """Andrew et al.'s iteration from both sides, by its own released shares."""
    norms = np.exp(np.random.default_rng(0).normal(1.0, 0.7, 4_000))
    for start in (0.05, 100.0):
        clip = start
        for round in range(1, 120):
            kept = np.array([(norms <= clip).sum()])
            share = released_share(
                kept, np.array([4_000]), [0], round, 1, np.array([4_000.0]), np.array([200.0]),
                SECRET,
            )  # fmt: skip
            clip = next_clip(clip, share, 0.5, 0.2)
        assert clip == pytest.approx(float(np.median(norms)), rel=0.1)


def test_a_private_run_adapts_pays_and_says_so(tmp_path):
    sim = simulate(privacy=ADAPTIVE)
    records = list(sim.rounds())
    clips = [r.metrics["privacy/max_grad_norm"] for r in records]
    assert clips[0] == PRIVATE.max_grad_norm and len(set(clips)) == 5
    for before, after, record in zip(
        clips, [*clips[1:], sim.state.max_grad_norm], records, strict=True
    ):
        share = min(1.0, max(0.0, record.metrics["privacy/unclipped_share"]))
        assert after == pytest.approx(before * math.exp(-0.2 * (share - 0.5)), rel=1e-5)
    used = simulate(privacy=ADAPTIVE)
    used.state = dataclasses.replace(used.state, max_grad_norm=0.7)
    release = used.release(1).privacy(np.array([0, 2]), used.state)
    assert release.max_grad_norm == 0.7
    np.testing.assert_allclose(release.noise_sd, used.plan.added_noise[[0, 2]] * 0.7)
    setup = sim.communication.total("uplink", ["setup"])
    assert setup == 4 * 4 * 5  # fp32, clients, rounds
    said = statement(sim.plan, sim.privacy_ledger.steps_taken)["mechanism"]
    assert said["adaptive_clip"]["quantile"] == 0.5
    assert said["noise_on_release"][0] > sim.plan.noise_multiplier[0]
    path = tmp_path / "ledger.jsonl"
    PrivacyLedger(sim.plan.noise_multiplier, sim.plan.accounted_rate, path, sim.plan.count_noise)
    assert json.loads(path.read_text())["count_noise"] == 1.0


def test_a_run_that_goes_on_from_its_state_is_the_same_run():
    whole, part, rest = (simulate(privacy=ADAPTIVE) for _ in range(3))
    list(whole.rounds())
    for round in (1, 2, 3):
        part.play(round)
    rest.state = part.state
    list(rest.rounds())
    assert rest.state.max_grad_norm == whole.state.max_grad_norm
    for name, value in whole.tensors.items():
        assert torch.equal(value, rest.tensors[name])
    forgot = simulate(privacy=ADAPTIVE)
    forgot.state = dataclasses.replace(part.state, max_grad_norm=None)
    list(forgot.rounds())
    assert forgot.state.max_grad_norm != whole.state.max_grad_norm


def test_a_fixed_clip_stays_and_sends_nothing_of_the_kind():
    sim = simulate()
    records = list(sim.rounds())
    assert sim.state.max_grad_norm is None
    assert not any("privacy/max_grad_norm" in r.metrics for r in records)
    assert sim.communication.total("uplink", ["setup"]) == 0
    assert FEDERATION.rounds == len(records)
    assert keys.derive(SECRET, "count noise", 1, 1, 0) != keys.derive(SECRET, "noise", 1, 1, 0)
