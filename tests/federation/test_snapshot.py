"""What lies between two rounds, put away and taken up again."""

from __future__ import annotations

import dataclasses
import json

import numpy as np

from ffalora_cli.federation.cohort import cohort
from ffalora_cli.federation.snapshot import restore, snapshot
from ffalora_cli.privacy.ledger import PrivacyLedger
from tests.federation.test_simulation import PRIVATE, simulate


def test_a_round_without_clients_is_not_played_again(monkeypatch):
    sim = simulate(private=False)
    monkeypatch.setattr(cohort, "sample", lambda *_: np.zeros(0, np.int64))
    assert [record.round for record in sim.rounds()] == [1, 2, 3, 4, 5]
    tensors, facts = snapshot(sim)
    again = simulate(private=False)
    restore(again, tensors, facts, ())
    assert again.state.round == 5 and not list(again.rounds())


def test_an_adapted_clip_comes_back_to_the_bit():
    sim = simulate(privacy=dataclasses.replace(PRIVATE, clip_quantile=0.5))
    next(sim.rounds())
    clip = sim.state.max_grad_norm
    assert clip is not None and clip != PRIVATE.max_grad_norm
    tensors, facts = snapshot(sim)
    again = simulate(privacy=dataclasses.replace(PRIVATE, clip_quantile=0.5))
    restore(again, tensors, json.loads(json.dumps(facts)), ())
    assert again.state.max_grad_norm == clip


def test_a_spent_budget_is_not_played_on_after_a_restore():
    sim = simulate()
    sim.privacy_ledger = PrivacyLedger(sim.plan.noise_multiplier, sim.plan.accounted_rate)
    next(sim.rounds())
    left = sim.plan.planned_steps - sim.privacy_ledger.steps_taken
    assert (left > 0).all()
    sim.plan = dataclasses.replace(sim.plan, planned_steps=sim.privacy_ledger.steps_taken.copy())
    assert not list(sim.rounds()) and sim.state.round == 1


def test_usual_update_norms_come_back_to_the_bit():
    sim = simulate(private=False)
    next(sim.rounds())
    tensors, facts = snapshot(sim)
    again = simulate(private=False)
    restore(again, tensors, json.loads(json.dumps(facts)), ())
    assert len(sim.state.upload_norms) == 1 and sim.state.upload_norms[0] > 0
    assert again.state.upload_norms == sim.state.upload_norms
