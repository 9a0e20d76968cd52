"""A rehearsal's ledger against that of the run it stands for: every method, every way to send."""

from __future__ import annotations

import numpy as np
import pytest

from ffalora_cli.compose.jobs import plan
from ffalora_cli.experiment.parts import build
from ffalora_cli.federation import rehearsal
from ffalora_cli.federation.rehearsal import rehearse
from ffalora_cli.federation.round_metrics import of_clients
from ffalora_cli.methods import registry
from ffalora_cli.privacy.ledger import PrivacyLedger
from tests.tiny import save_tiny_bert

CASES = {name: [f"method={name}", "privacy=none"] for name in registry.names()} | {
    "cohorts": [
        "privacy=none",
        "federation.cohort_sampling=fixed",
        "federation.cohort_size=2",
    ],
    "poisson": ["federation.cohort_sampling=poisson", "federation.cohort_size=2"],
    "fedex cohorts": [
        "method=fedex_lora",
        "privacy=none",
        "federation.cohort_sampling=poisson",
        "federation.cohort_size=2",
        "federation.rounds=12",
    ],
    "stateless": ["federation.downlink=stateless", "head.mode=trained"],
    "bfloat16": ["federation.wire_dtype=bfloat16", "method=lora"],
    "trouble": ["federation.dropout_rate=0.4", "federation.straggler_rate=0.4"],
    "adaptive clip": [
        "privacy.clip_quantile=0.5",
        "privacy.epsilon_target=null",
        "privacy.noise_multiplier=2",
        "privacy.clip_count_noise=10",
    ],
    "budget": ["privacy.noise_multiplier=0.8", "privacy.epsilon_target=2"],
    "client": [
        "privacy=client",
        "federation.weights=uniform",
        "federation.cohort_sampling=poisson",
        "federation.cohort_size=1",
    ],
    "server": ["federation.server_optimizer.name=adam", "privacy=none"],
}


class Silent:
    def note(self, text):
        pass


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("name", CASES)
def test_the_ledger_is_that_of_the_run(name, tiny, monkeypatch, tmp_path_factory):
    (job,) = plan(
        [
            "model=auto",
            f"model.source={tiny}",
            "task.max_length=16",
            "federation.num_clients=4",
            "federation.rounds=5",
            "federation.local_steps=1",
            "federation.local_batch_size=4",
            "adapter.rank=2",
            "privacy.accountant=rdp",
            *CASES[name],
        ]
    )
    parts = build(job.config, job.signature, Silent())
    simulation = parts.simulation
    seen = rehearse(simulation)
    assert simulation.state.round == 0 and not simulation.communication.total()
    if parts.plan is not None:
        simulation.privacy_ledger = PrivacyLedger(
            parts.plan.noise_multiplier, parts.plan.accounted_rate
        )
    rounds = [record.round for record in simulation.rounds()]
    assert seen.rounds == len(rounds) > 0
    assert seen.communication.rows() == simulation.communication.rows()
    for round in rounds:
        ours, theirs = (x.communication.round_totals(round) for x in (seen, simulation))
        assert ours == theirs
    took_part = np.zeros(4, dtype=np.int64)
    for row in simulation.communication.rows():
        if (
            row["direction"] == "uplink"
            and "framing" in row["bytes"]
            and "setup" not in row["bytes"]
        ):
            took_part[row["clients"] if row["clients"] is not None else slice(None)] += 1
    assert (seen.participations == took_part).all()
    for name, value in simulation.state.optimizer.items():
        assert seen.state.optimizer[name].shape == value.shape
    assert [m.exchange for m in seen.state.merges] == [m.exchange for m in simulation.state.merges]


LEAPS = {
    "default": [],
    "merges": ["method=fedex_lora", "federation.downlink=stateless", "privacy=none"],
    "phases": ["method=rolora"],
    "kept head": ["method=fedsa_lora", "head.mode=trained", "privacy=none"],
    "uneven budgets": ["privacy.noise_multiplier=1.0", "privacy.epsilon_target=4"],
    "server": ["federation.server_optimizer.name=adam", "privacy=none"],
}


@pytest.mark.parametrize("name", LEAPS)
def test_leaps_count_what_playing_every_round_counts(name, tiny):
    settings = ["model=auto", f"model.source={tiny}", "task.max_length=16", "adapter.rank=2"]
    settings += ["federation.num_clients=4", "federation.rounds=137", "privacy.accountant=rdp"]
    settings += LEAPS[name]
    (job,) = plan([*settings, "federation.local_steps=1", "federation.local_batch_size=4"])
    simulation = build(job.config, job.signature, Silent()).simulation
    short, long = (rehearse(simulation, leaps=some) for some in (True, False))
    assert len(short.communication.rows()) < len(long.communication.rows()) / 2
    assert (short.rounds, short.exact) == (long.rounds, True)
    kinds = {kind for row in long.communication.rows() for kind in row["bytes"]}
    for way in ("uplink", "downlink"):
        for kind in kinds:
            assert short.communication.total(way, [kind]) == long.communication.total(way, [kind])
        ours, theirs = (
            np.sort(seen.communication.by_round(way, seen.rounds)) for seen in (short, long)
        )
        assert (ours == theirs).all()
        ours, theirs = (seen.communication.per_client()[way] for seen in (short, long))
        assert (ours == theirs).all()
    assert (short.participations == long.participations).all()
    assert [m.exchange for m in short.state.merges] == [m.exchange for m in long.state.merges]
    assert short.state.versions == long.state.versions


def test_drawn_cohorts_stand_for_others_like_them(tiny, monkeypatch):
    monkeypatch.setattr(rehearsal, "_PLAYED", 200)
    monkeypatch.setattr(rehearsal, "SAMPLE", 100)
    settings = ["model=auto", f"model.source={tiny}", "task.max_length=16", "adapter.rank=2"]
    settings += ["federation.num_clients=6", "federation.cohort_size=3", "privacy=none"]
    settings += ["federation.cohort_sampling=fixed", "federation.rounds=450"]
    (job,) = plan([*settings, "method=fedex_lora", "federation.local_batch_size=4"])
    simulation = build(job.config, job.signature, Silent()).simulation
    short, long = (rehearse(simulation, leaps=some) for some in (True, False))
    assert (short.exact, long.exact) == (False, True)
    assert short.rounds == long.rounds == 450
    assert short.participations.sum() == long.participations.sum() == 3 * 450
    for way in ("uplink", "downlink"):
        assert short.communication.total(way) == pytest.approx(
            long.communication.total(way), rel=0.03
        )
        assert len(short.communication.by_round(way, 450)) == 450


def test_counts_of_a_cohort_without_clients():
    nobody = np.zeros(0, np.int64)
    assert len(of_clients([nobody], nobody)) == 0
