"""Whole runs on two processes: stopped, a process killed, gone on with by one; and refusals."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError, RunFailed
from ffalora_cli.engine.ranks import Ranks
from ffalora_cli.experiment.ranks import check, serve
from ffalora_cli.experiment.run import run
from ffalora_cli.experiment.shares import check_shares
from ffalora_cli.methods import registry
from ffalora_cli.stopping import StopFlag, Stopped
from scripts.chaos.workload import Silent
from tests.experiment.test_inputs import TASK, rows
from tests.two_ranks import on_two_ranks

PRIVATE = [word for word in TASK if word != "privacy=none" and "rounds" not in word]
PRIVATE += ["privacy=paper", "privacy.noise_multiplier=1", "privacy.epsilon_target=null"]
PRIVATE += ["privacy.delta=1e-3", "privacy.noise=secure", "federation.rounds=3"]


@pytest.fixture(scope="module")
def job_in(tmp_path_factory, tiny_bert):
    """A function: a private run of three rounds whose rows and records lie in folders of a name."""
    root = tmp_path_factory.mktemp("ranks")

    def make(data: str, runs: str, *more: str):
        (root / data / "mine").mkdir(parents=True, exist_ok=True)
        (root / data / "mine" / "train.csv").write_text(rows(word=data))
        where = [f"paths.data={root / data}", f"paths.runs={root / runs}"]
        given = {
            word.partition("=")[0]: word for word in (*PRIVATE, *where, f"model.source={tiny_bert}")
        }
        given |= {word.partition("=")[0]: word for word in more}
        return plan([*given.values()])[0]

    return make


def dies_in_round(number: int, ranks: Ranks) -> Ranks:
    """These ranks, of which this one is killed as it is told of a round."""

    class Mortal(Ranks):
        def tell(self, message: bytes = b"") -> bytes:
            told = super().tell(message)
            rounds.append(b'"do": "train"' in told)
            if sum(rounds) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return told

    rounds: list[bool] = []
    return Mortal(ranks.rank, ranks.world, ranks.store)


class StopsAfter(Silent):
    """An observer that asks for a stop when a round is on disk."""

    def __init__(self, round: int) -> None:
        super().__init__()
        self.round, self.stop = round, StopFlag()

    def working(self, on, done, total): ...

    def round_done(self, record) -> None:
        if record.round == self.round:
            self.stop.request(signal.SIGTERM)


def test_one_two_one_with_a_killed_process_is_one_run(job_in, monkeypatch):
    """Rank 1 dies in round 3: one line, rounds 1 and 2 stay, the rest comes with the same noise."""
    monkeypatch.setattr(os, "urandom", lambda count: b"u" * count)
    whole, parts = job_in("fine", "whole"), job_in("fine", "parts")
    wanted = run(whole, Silent())
    first = StopsAfter(1)
    with pytest.raises(Stopped):
        run(parts, first, first.stop)

    def work(ranks):
        if ranks.rank:
            return serve(dies_in_round(2, ranks), parts)
        observer = Silent()
        with pytest.raises(RunFailed) as failed:
            run(parts, observer, ranks=ranks)
        return str(failed.value), observer.notes

    (said, notes), nothing = on_two_ranks(work)
    assert nothing is None  # it did not live to say anything
    assert said.startswith("another process of this run is gone, likely killed")
    assert "processes was 1 and is 2: results may differ by rounding" in notes
    last = Silent()
    found = run(parts, last)
    assert "continuing after round 2 of 3" in last.notes
    folder, other = found["run_dir"], wanted["run_dir"]
    manifest = json.loads(Path(folder, "manifest.json").read_text())
    counts = [manifest["processes"], *(s["processes"] for s in manifest["sittings"])]
    assert counts == [1, 2, 1]
    tensors, same = (load_file(f"{at}/adapter.safetensors") for at in (folder, other))
    for name, value in same.items():
        assert np.linalg.norm(tensors[name] - value) <= 1e-6 * np.linalg.norm(value)
    charged = [Path(at, "privacy_ledger.jsonl").read_text() for at in (folder, other)]
    assert charged[0] == charged[1]


def test_weights_in_shares_are_one_run(job_in):
    """Rank 1 has no weights but its shares of rank 0's; nothing of the run tells."""
    whole = job_in("fine", "alone", "privacy.noise=reproducible")
    wanted = run(whole, Silent())
    job = job_in("fine", "shared", "privacy.noise=reproducible", "engine.shard=true")

    def work(ranks):
        return serve(ranks, job) if ranks.rank else (run(job, Silent(), ranks=ranks), ranks.tell())

    (found, _), nothing = on_two_ranks(work)
    assert nothing is None and job.signature == whole.signature
    tensors, same = (load_file(f"{r['run_dir']}/adapter.safetensors") for r in (found, wanted))
    for name, value in same.items():
        assert np.linalg.norm(tensors[name] - value) <= 1e-6 * np.linalg.norm(value)


@pytest.mark.parametrize(
    ("words", "world", "says"),
    [
        ((), 1, "one process cannot share .*; start several, as in torchrun"),
        (("method=fedex_lora",), 2, "method=fedex_lora adds to the frozen weights"),
    ],
)
def test_weights_that_cannot_be_shared_are_refused(job_in, words, world, says):
    config = job_in("fine", "never", "engine.shard=true", *words).config
    with pytest.raises(ConfigError, match=says):
        check_shares(config, registry.get(config.method.name), world)


@pytest.mark.parametrize(
    ("data", "more", "says"),
    [
        ("other", (), r"rank 1 is not of the same run as rank 0: .*data\.train .* -> "),
        ("fine", ("federation.local_lr=0.25",), "federation.local_lr .* -> 0.25"),
        ("fine", ("model.source=nowhere",), "rank 1 could not begin: ConfigError: .*nowhere"),
    ],
)
def test_a_rank_of_another_run_is_refused_before_anything_is_written(job_in, data, more, says):
    here, there = job_in("fine", f"refused{len(says)}"), job_in(data, "nobody", *more)

    def work(ranks):
        return serve(ranks, there) if ranks.rank else run(here, Silent(), ranks=ranks)

    with pytest.raises(ConfigError, match=says):
        on_two_ranks(work)
    assert not any(os.path.exists(job.config.paths.runs) for job in (here, there))


@pytest.mark.parametrize(
    ("changed", "hosts", "says"),
    [
        ({"name": "reference"}, 1, "trains in one process, and there are 2; use engine=stacked"),
        ({"device": "cuda:1"}, 1, "one GPU for 2 processes; use engine.device=cuda"),
        ({}, 2, "its secret would cross the network .* engine.share_secret=true"),
    ],
)
def test_what_cannot_be_shared_is_refused(job_in, monkeypatch, changed, hosts, says):
    config = job_in("fine", "never").config
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(2 // hosts))
    with pytest.raises(ConfigError, match=says):
        check(dataclasses.replace(config, engine=dataclasses.replace(config.engine, **changed)), 2)
    allowed = dataclasses.replace(config.engine, share_secret=True)
    check(dataclasses.replace(config, engine=allowed), 2)
