"""Learning rates over rounds: their formulas, and that every round is trained with its own."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from ffalora_cli.engine.build import build_engine
from ffalora_cli.federation.schedule import in_words, local_lr
from tests.arrivals import EXAMPLE, FEDERATION, federate, keeping
from tests.tiny import TinyExamples, tiny_network

COSINE = {"lr_schedule": "cosine", "warmup_rounds": 2, "lr_end": 0.1}


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("cosine", get_cosine_schedule_with_warmup), ("linear", get_linear_schedule_with_warmup)],
)
@pytest.mark.parametrize("warmup", [0, 3])
def test_a_schedule_falls_as_transformers_does(name, theirs, warmup):
    config = dataclasses.replace(FEDERATION, rounds=12, lr_schedule=name, warmup_rounds=warmup)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=config.local_lr)
    schedule = theirs(optimizer, warmup, config.rounds)
    for round in range(1, config.rounds + 1):
        share = local_lr(config, round) / config.local_lr
        if round > warmup:
            assert local_lr(config, round) == pytest.approx(schedule.get_last_lr()[0], rel=1e-12)
            ended = local_lr(dataclasses.replace(config, lr_end=0.25), round) / config.local_lr
            assert ended == pytest.approx(0.25 + 0.75 * share)
        else:  # theirs begins at zero, which would be a round for nothing
            assert share == round / (warmup + 1)
        optimizer.step()
        schedule.step()
    kept = dataclasses.replace(config, lr_schedule="constant")
    assert local_lr(kept, warmup + 1) == local_lr(kept, config.rounds) == config.local_lr


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_every_round_is_trained_and_recorded_with_its_own_rate(optimizer):
    changes = {"local_optimizer": optimizer, "local_lr": 0.1, **COSINE}
    sim, seen = federate("lora", EXAMPLE, **changes), []
    records = [sim.play(round, keeping(sim, seen)) for round in range(1, 7)]
    rates = [local_lr(sim.config, round) for round in range(1, 7)]
    assert rates[1] < rates[2] == sim.config.local_lr > rates[3] > rates[5] > 0.01
    assert [record.metrics["train/lr"] for record in records] == rates
    jobs = [pair for pair in seen if isinstance(pair, tuple)]
    assert [job.optimizer.lr for job, _ in jobs] == rates
    reference = build_engine("reference", tiny_network("bert"), TinyExamples(64), 64)
    for job, result in (jobs[0], jobs[-1]):
        for name, value in reference.train(job).trained.items():
            assert torch.allclose(value, result.trained[name], atol=1e-4)


def test_a_federation_that_goes_on_has_the_rates_of_one_that_was_never_stopped():
    whole = federate(**COSINE)
    list(whole.rounds())
    later = federate(**COSINE)
    first = federate(**COSINE)
    for round in range(1, 4):
        first.play(round)
    later.state = first.state
    list(later.rounds())
    assert all(torch.equal(value, later.tensors[name]) for name, value in whole.tensors.items())


def test_a_rate_in_words():
    assert in_words(FEDERATION) == "0.5"
    falling = dataclasses.replace(FEDERATION, **COSINE)
    assert in_words(falling) == "0.5 (2 warm-up rounds, cosine to 0.05)"
    assert in_words(dataclasses.replace(FEDERATION, warmup_rounds=1)) == "0.5 (1 warm-up round)"
