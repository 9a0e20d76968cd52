"""What a measurement times and leaves behind; what makes two jobs' steps cost the same."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from ffalora_cli.compose.jobs import plan
from ffalora_cli.engine.job import StepBatches
from ffalora_cli.experiment.forecast import measurement
from ffalora_cli.experiment.forecast.cost import cost_key
from ffalora_cli.experiment.forecast.forecast import Nobody
from ffalora_cli.experiment.forecast.measurement import measure, peak_memory, reset_peak
from ffalora_cli.experiment.forecast.planned import spread
from ffalora_cli.experiment.parts import build
from tests.tiny import save_tiny_bert


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    source = save_tiny_bert(tmp_path_factory.mktemp("tiny"))
    words = ["model=auto", f"model.source={source}", "task.max_length=16", "privacy=none"]
    words += ["method=fedex_lora", "federation.local_steps=3"]
    (job,) = plan(words)
    return build(job.config, job.signature, Nobody())


class Slow:
    """An engine that takes known time more."""

    def __init__(self, engine, seconds):
        self.engine, self.seconds, self.steps = engine, seconds, []

    def train(self, job):
        self.steps.append(len(job.batches))
        time.sleep(self.seconds)
        return self.engine.train(job)


def test_seconds_are_those_of_the_engine_and_the_state_stays(parts, monkeypatch):
    monkeypatch.setattr(measurement, "ENOUGH", 600.0)  # however busy the machine is
    before = {n: v.clone() for n, v in parts.simulation.tensors.items()}
    network = parts.simulation.network
    bases = {s.name: network.model.get_submodule(s.name).base.weight.clone() for s in network.sites}
    engine = Slow(parts.simulation.engine, 0.2)
    found = measure(replace(parts, simulation=replace(parts.simulation, engine=engine)))
    assert set(engine.steps) == {1} and len(engine.steps) >= measurement.REPEATS + 2
    assert found.steps == measurement.REPEATS and f"{found.steps} steps" in found.how
    assert found.step_seconds >= 0.2 and found.error >= measurement.LEAST_ERROR
    assert found.token_seconds > 0 and found.round_seconds >= 0
    assert parts.simulation.state.round == 0
    assert all(torch.equal(parts.simulation.tensors[n], v) for n, v in before.items())
    for name, value in bases.items():  # FedEx-LoRA's merges went in and came out again
        assert torch.equal(network.model.get_submodule(name).base.weight, value)


def test_a_slow_step_is_not_repeated(parts, monkeypatch):
    monkeypatch.setattr(measurement, "ENOUGH", 0.0)
    engine = Slow(parts.simulation.engine, 0.0)
    found = measure(replace(parts, simulation=replace(parts.simulation, engine=engine)))
    assert engine.steps == [1, 1] and found.steps == 1
    assert found.error == measurement.UNREPEATED_ERROR


def test_some_rows_stand_for_a_step_token_for_token(parts, monkeypatch):
    """An engine that takes known time a token, on steps cut to some of their rows."""
    lengths = parts.data.train.lengths

    class PerToken(Slow):
        def train(self, job):
            (batch,) = job.batches
            self.seconds = 0.01 * int(lengths[batch.rows].sum())
            return super().train(job)

    monkeypatch.setattr(measurement, "FEW", 64)
    monkeypatch.setattr(measurement, "ENOUGH", 4.0)  # of 7.7 seconds for a whole step
    monkeypatch.setattr(measurement._Clock, "tokens", 64)
    engine = PerToken(parts.simulation.engine, 0.0)
    found = measure(replace(parts, simulation=replace(parts.simulation, engine=engine)))
    assert "% of a step's tokens" in found.how
    whole = 0.01 * int(lengths[:48].mean() * 48)  # 3 clients x 16 rows
    assert found.step_seconds > 0.8 * whole


def test_a_thinned_step_keeps_evenly_spaced_pairs_of_every_client():
    lengths = np.full(100, 10, np.int32)
    batch = StepBatches(np.repeat([0, 1], 30), np.arange(60))
    kept = measurement.thinned(batch, lengths, 120)
    assert len(kept.rows) == 12 and set(kept.slots.tolist()) == {0, 1}
    assert np.array_equal(kept.slots, (kept.rows >= 30).astype(int))
    assert measurement.thinned(batch, lengths, 600) is batch


def test_peak_memory_sees_what_was_held_and_let_go():
    device = torch.device("cpu")
    reset_peak(device)
    low = peak_memory(device)
    held = np.ones(2**24)  # 128 MiB
    del held
    assert 100 * 2**20 < peak_memory(device) - low < 300 * 2**20
    reset_peak(device)
    assert peak_memory(device) < low + 64 * 2**20


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("seed=4", True),
        ("privacy.epsilon_target=3", True),
        ("federation.rounds=400", True),
        ("federation.local_batch_size=8", False),
        ("federation.num_clients=4", False),
        ("privacy=none", False),
        ("method=lora", False),
        ("engine=reference", False),
    ],
)
def test_what_makes_steps_cost_the_same(override, same):
    one, two = (plan(words)[0].config for words in ([], [override]))
    assert (cost_key(one) == cost_key(two)) == same


def test_the_middle_is_a_real_member():
    assert spread(np.array([7, 1, 4, 100])) == {"min": 1, "median": 7, "max": 100}
