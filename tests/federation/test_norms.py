"""Which updates are too long: the absurd ones, and no honest one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ffalora_cli.data.partition.partition import ClientRows
from ffalora_cli.engine.build import build_engine
from ffalora_cli.engine.evaluate import predict
from ffalora_cli.federation.wire import norms
from ffalora_cli.tasks.targets import Targets
from ffalora_cli.types import ServerState
from tests.arrivals import CLIENT, EXAMPLE, federate, keeping
from tests.tiny import TinyExamples


def limit(history=(), fixed=None, clients=9):
    return norms.NormLimit(fixed, history, np.ones(clients))


@pytest.mark.parametrize("count", range(1, 12))
def test_the_median_of_the_others_is_a_loop(count):
    values = np.random.default_rng(count).integers(0, 6, count).astype(float)  # with ties
    expected = [
        sorted(np.delete(values, i))[(count - 1) // 2] if count > 1 else 0.0 for i in range(count)
    ]
    assert norms.median_of_others(values).tolist() == expected


@pytest.mark.parametrize(
    ("values", "history", "exceeded"),
    [
        ([1.0, 1.2, 0.8], (), []),
        ([1.0, 9.0, 0.8], (), []),
        ([1.0, 12.0, 0.8], (), [1]),
        ([1.0, 1e30], (), []),  # one other is no yardstick
        ([1.0, 1e30], (1.0,), [1]),
        ([0.0, 1.0, 12.0], (), []),  # nor are two, one of whom has no rows
        ([1.0, 1.0, 1e30, 1e30], (), [2, 3]),  # half of them
        ([1.0, 1e30, 1e30], (), []),  # two of three in the first round: nobody can tell
        ([1.0, 1e30, 1e30], (1.0,), []),  # nor later: the rest of the cohort is believed
        ([0.001, 1.0, 1.1], (), []),  # a short update accuses nobody
        ([1e30], (), []),  # the first upload of a run: nothing is known
        ([1e30], (1.0, 2.0), [0]),
        ([40.0, 50.0, 60.0], (1.0, 1.0), []),  # all of a cohort grow: believed
        ([40.0, 50.0, 6000.0], (1.0, 1.0), [2]),
        ([0.0, 0.0, 5.0], (), []),  # clients without rows say nothing
        ([0.0, 0.0, 0.0], (), []),
        ([0.01, 0.02, 0.5], (1.0,), []),  # short for this round, usual for the run
        ([], (1.0,), []),
    ],
)
def test_what_is_too_long(values, history, exceeded):
    found = limit(history).exceeded(np.array(values))
    assert np.flatnonzero(found).tolist() == exceeded


def test_a_fixed_limit_reads_nothing_else():
    assert limit((1e-9,), fixed=2.0).exceeded(np.array([1.0, 2.0, 2.1])).tolist() == [0, 0, 1]


def test_history_is_medians_of_rounds_in_which_something_moved():
    history = norms.remember((), np.array([1.0, 3.0, 0.0]))
    assert history == (2.0,)
    assert norms.remember(history, np.zeros(3)) == history
    for value in range(1, 200):
        history = norms.remember(history, np.array([float(value)]))
    assert history == tuple(float(v) for v in range(150, 200))


def test_a_client_that_draws_more_noise_may_send_longer_updates():
    plan = federate(privacy=EXAMPLE).plan
    noisy = dataclasses.replace(
        plan, noise_multiplier=np.array([1.0, 1, 1, 1, 1, 1, 50]), expected_batch=np.full(7, 5.0)
    )
    assert norms.noise_slack(noisy, 7).tolist() == [1.0] * 6 + [50.0]
    assert norms.noise_slack(None, 3).tolist() == [1.0] * 3
    state = ServerState({}, {})
    assert norms.limit(None, federate(privacy=CLIENT, weights="uniform").plan, state, 7) is None
    assert norms.limit(3.0, noisy, state, 7).slack.tolist() == [1.0] * 7


def test_a_small_client_with_a_hundred_times_the_noise_is_believed():
    """One row, batch one: its calibrated noise makes an honest update far the longest."""
    noise = np.array([0.5] * 6 + [60.0])
    sim = federate(privacy=EXAMPLE)
    sim.plan = dataclasses.replace(sim.plan, noise_multiplier=noise)
    assert all(r.metrics["train/rejected_uploads"] == 0 for r in sim.rounds())
    blind = federate(privacy=EXAMPLE, max_upload_norm=10 * sim.state.upload_norms[0])
    blind.plan = sim.plan
    assert {r["client"] for r in blind.play(1).rejected} == {6}  # the test can fail


def test_of_two_honest_clients_one_may_have_learnt_already():
    """One client's labels are what the model says, the other's are not: its update is forty times
    as long.

    With FedSA-LoRA, whose uploaded A learns only what B lets through, the second one was thrown
    out of the first round.
    """
    sim = federate("fedsa_lora", num_clients=2, local_lr=0.1)
    sim.clients = ClientRows(np.arange(64), np.array([0, 32, 64]))
    head = {name: 20 * value for name, value in sim.tensors.items() if name.startswith("head.")}
    sim.network.initial.update(head)
    examples = TinyExamples(64)
    right = predict(sim.network, examples, sim.tensors, 64).answers
    examples.targets = Targets(np.concatenate([right[:32], (right[32:] + 1) % 3]))
    sim.engine = build_engine("stacked", sim.network, examples, 64)
    seen = []
    rounds = sim.rounds(keeping(sim, seen))
    assert not [record.rejected for record in rounds if record.rejected]
    assert seen[1].norms.max() > 10 * seen[1].norms.min()  # the test can fail
