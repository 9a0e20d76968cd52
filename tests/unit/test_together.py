"""Jobs trained in lockstep end as if each had been run alone."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ffalora_cli.cli.jobs import plan
from ffalora_cli.config.errors import ConfigError, RunFailed
from ffalora_cli.data.batches import StepBatches
from ffalora_cli.engine import build_engine, joint
from ffalora_cli.engine.job import LocalOptimizer
from ffalora_cli.experiment import run
from ffalora_cli.experiment.together import Member, run_together
from ffalora_cli.records.reading import read_communication, read_run
from ffalora_cli.stopping import StopFlag, Stopped
from tests.tiny import TinyExamples, save_tiny_bert, tiny_network
from tests.unit.test_engines import gap, job

RTOL = 1e-4


class Watcher:
    """Keeps what it is told; may ask for a stop after a round."""

    def __init__(self, stop=None, after=None):
        self.notes, self.rounds, self.stop, self.after = [], [], stop, after

    def note(self, text):
        self.notes.append(text)

    def started(self, facts):
        pass

    def round_done(self, record):
        self.rounds.append(record.round)
        if record.round == self.after:
            self.stop.request(15)

    def finished(self, summary):
        pass


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("model"))


def planned(model, runs, *overrides):
    """One checked job on the packaged rows, small and noisy enough to tell jobs apart."""
    (found,) = plan(
        [
            "model=auto",
            f"model.source={model}",
            "debug=tiny",
            "task.max_length=12",
            "task.holdout_fraction=0.03",
            "privacy.accountant=rdp",
            "federation.rounds=3",
            f"paths.runs={runs}",
            *overrides,
        ]
    )
    return found


def member(found, **watching):
    return Member(found.config, found.resolved, found.signature, Watcher(**watching))


def alone(found, stop=None, **watching):
    watcher = Watcher(stop=stop, **watching)
    return run(found.config, found.resolved, found.signature, watcher, stop=stop), watcher


def together(*found):
    return run_together([member(one) for one in found])


def result(summary):
    """What a run leaves behind, but for clocks and padding, as numbers to compare."""
    folder = summary["run_dir"]
    rounds = read_run(folder).rounds
    metrics = [
        {k: v for k, v in r.metrics.items() if not k.startswith(("time/", "engine/"))}
        for r in rounds
    ]
    tensors = {}
    for file in sorted(__import__("pathlib").Path(folder).glob("**/*.safetensors")):
        if "ckpt" not in file.parts:
            tensors |= {f"{file.name}/{n}": v for n, v in load_file(file).items()}
    ledger = __import__("pathlib").Path(folder, "privacy_ledger.jsonl")
    return {
        "rounds": metrics,
        "clients": [r.clients for r in rounds],
        "tensors": tensors,
        "bytes": list(read_communication(folder)),
        "charged": ledger.read_text() if ledger.exists() else "",
    }


def worst(one, other):
    """Largest relative difference of tensors; everything that is counted must be equal."""
    assert one["bytes"] == other["bytes"] and one["charged"] == other["charged"]
    for a, b in zip(one["rounds"], other["rounds"], strict=True):
        assert a == pytest.approx(b, rel=RTOL, abs=1e-6, nan_ok=True)
    for a, b in zip(one["clients"], other["clients"], strict=True):
        for x, y in zip(a, b, strict=True):
            assert x == pytest.approx(y, rel=RTOL, abs=1e-6, nan_ok=True)
    assert one["tensors"].keys() == other["tensors"].keys() and one["tensors"]
    return max(
        float((v.double() - other["tensors"][n].double()).norm())
        / max(float(other["tensors"][n].double().norm()), 1e-12)
        for n, v in one["tensors"].items()
    )


MIXES = {
    "rates, clips, budgets and seeds": [
        ["federation.local_lr=0.3"],
        ["federation.local_lr=1.5", "privacy.max_grad_norm=0.2"],
        ["privacy.epsilon_target=2"],
        ["seed=5", "federation.cohort_sampling=fixed", "federation.cohort_size=2"],
    ],
    "methods, and privacy on and off": [
        ["method=ffa_lora"],
        ["method=lora"],
        ["method=ffa_lora", "privacy=none", "seed=3"],
        ["method=fedsa_lora", "federation.local_optimizer=adamw", "federation.local_lr=0.01"],
        ["method=rolora", "privacy.clip=per_layer"],
    ],
    "schedules, merges and moving clips": [
        ["method=lora", "federation.rounds=2", "federation.local_steps=3", "privacy=none"],
        ["method=fedex_lora", "privacy=none"],
        ["method=lora", "privacy.clip=automatic"],
        ["method=lora", "privacy.clip_quantile=0.5", "privacy.clip_count_noise=1.0"],
        ["method=lora", "federation.num_clients=5", "privacy=client"],
    ],
}


@pytest.mark.parametrize("mix", MIXES)
def test_a_group_ends_as_its_jobs_alone(mix, model, tmp_path):
    apart = [planned(model, tmp_path / "apart", *o) for o in MIXES[mix]]
    grouped = [planned(model, tmp_path / "grouped", *o) for o in MIXES[mix]]
    outcomes = together(*grouped)
    assert [o.error for o in outcomes] == [None] * len(grouped)
    for found, outcome in zip(apart, outcomes, strict=True):
        assert worst(result(outcome.summary), result(alone(found)[0])) < RTOL
