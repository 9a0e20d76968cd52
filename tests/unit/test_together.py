"""Jobs trained in lockstep end as if each had been run alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from ffalora_cli.cli.jobs import plan
from ffalora_cli.config.errors import ConfigError, RunFailed
from ffalora_cli.engine.stacked import StackedEngine
from ffalora_cli.experiment import run
from ffalora_cli.experiment.together import Member, run_together
from ffalora_cli.records.reading import read_communication, read_run
from ffalora_cli.records.run_directory import open_run
from ffalora_cli.stopping import StopFlag, Stopped
from tests.tiny import save_tiny_bert

RTOL = 1e-5


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
    return Member(found, Watcher(**watching))


def alone(found, stop=None, **watching):
    watcher = Watcher(stop=stop, **watching)
    return run(found, watcher, stop=stop), watcher


def ended(members, stop=None):
    """Outcomes in the members' order."""
    poll = {} if stop is None else {"poll": stop.poll}
    outcomes = dict(run_together(members, **poll))
    return [outcomes[place] for place in range(len(members))]


def together(*found):
    return ended([member(one) for one in found])


def result(summary):
    """What a run leaves behind, but for clocks and padding, as numbers to compare."""
    folder = summary["run_dir"]
    rounds = read_run(folder).rounds
    metrics = [
        {k: v for k, v in r.metrics.items() if not k.startswith(("time/", "engine/"))}
        for r in rounds
    ]
    tensors = {}
    for file in sorted(Path(folder).glob("**/*.safetensors")):
        if "ckpt" not in file.parts:
            tensors |= {f"{file.name}/{n}": v for n, v in load_file(file).items()}
    ledger = Path(folder, "privacy_ledger.jsonl")
    return {
        "rounds": metrics,
        "clients": [
            [{k: np.nan if v is None else v for k, v in line.items()} for line in r.clients]
            for r in rounds
        ],
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
        [
            "method=fedsa_lora",
            "head.mode=frozen",
            "federation.local_optimizer=adamw",
            "federation.local_lr=0.01",
        ],
        ["method=rolora"],
    ],
    "schedules, merges and moving clips": [
        ["method=lora", "federation.rounds=2", "federation.local_steps=3", "privacy=none"],
        ["method=fedex_lora", "privacy=none"],
        ["method=lora", "privacy.clip=automatic"],
        ["method=lora", "privacy.clip_quantile=0.5", "privacy.clip_count_noise=1.0"],
        ["method=lora", "privacy=client", "federation.weights=uniform"],
    ],
}


PASSES = dict(
    zip(
        MIXES,
        (
            [4, 4, 4],
            [1, 2, 2, 2, 2, 3, 3],  # what trains A and B, what trains B, and RoLoRA's A
            [1, 1, 1, 1, 1, 2, 3, 4],  # automatic clips and, once it merges, FedEx by themselves
        ),
        strict=True,
    )
)
"""Jobs in each pass of the three rounds."""


@pytest.fixture
def passes(monkeypatch):
    """How many jobs each real pass trains."""
    sizes, real = [], StackedEngine.train_together

    def counted(self, jobs):
        sizes.append(len(jobs))
        return real(self, jobs)

    monkeypatch.setattr(StackedEngine, "train_together", counted)
    return sizes


@pytest.mark.parametrize("mix", MIXES)
def test_a_group_ends_as_its_jobs_alone(mix, model, tmp_path, passes):
    apart = [planned(model, tmp_path / "apart", *o) for o in MIXES[mix]]
    grouped = [planned(model, tmp_path / "grouped", *o) for o in MIXES[mix]]
    outcomes = together(*grouped)
    assert [o.error for o in outcomes] == [None] * len(grouped)
    assert sorted(passes) == PASSES[mix]
    for found, outcome in zip(apart, outcomes, strict=True):
        assert worst(result(outcome.summary), result(alone(found)[0])) < RTOL


@pytest.mark.slow
def test_the_packaged_model_in_a_group_ends_as_alone(tmp_path):
    mix = [["seed=1"], ["federation.local_lr=0.5", "privacy.epsilon_target=3"], ["privacy=none"]]
    common = ["experiment=quickstart", "debug=smoke", "task.max_length=32"]
    for o in mix:
        o += common
    apart = [plan([*o, f"paths.runs={tmp_path / 'apart'}"])[0] for o in mix]
    outcomes = together(*(plan([*o, f"paths.runs={tmp_path / 'grouped'}"])[0] for o in mix))
    for found, outcome in zip(apart, outcomes, strict=True):
        gap = worst(result(outcome.summary), result(alone(found)[0]))
        print(f"largest relative difference of a tensor: {gap:.1e}")
        assert gap < RTOL


def settings(*overrides):
    return ["method=ffa_lora", *overrides]


def test_a_run_stopped_in_a_group_goes_on_alone_and_the_other_way_round(model, tmp_path):
    mix = [settings("federation.local_lr=0.5"), settings("seed=2"), settings("privacy=none")]
    whole = [planned(model, tmp_path / "whole", *o) for o in mix]
    parts = [planned(model, tmp_path / "parts", *o) for o in mix]
    stop = StopFlag()
    with pytest.raises(Stopped):  # one begins alone and gets one round further than the group
        alone(parts[0], stop=stop, after=1)
    stop = StopFlag()
    stop.defer()
    members = [member(parts[0]), member(parts[1], stop=stop, after=1), member(parts[2])]
    outcomes = ended(members, stop)
    assert [type(o.error) for o in outcomes] == [Stopped] * 3
    assert members[1].observer.rounds == [0, 1]
    finished = [*together(*parts[:2]), alone(parts[2])[0]]
    finished = [getattr(f, "summary", f) for f in finished]
    for found, summary in zip(whole, finished, strict=True):
        assert worst(result(summary), result(alone(found)[0])) < RTOL


def test_a_stop_before_the_start_starts_nothing(model, tmp_path):
    stop = StopFlag()
    stop.defer()
    stop.request(2)
    members = [member(planned(model, tmp_path / "runs", *settings(f"seed={s}"))) for s in (1, 2)]
    outcomes = ended(members, stop)
    assert [o.error.signal for o in outcomes] == [2, 2]
    assert not (tmp_path / "runs").exists()


def test_one_jobs_failure_does_not_end_the_others(model, tmp_path):
    plain = settings("privacy=none")
    good = planned(model, tmp_path / "runs", *plain)
    wild = planned(model, tmp_path / "runs", *plain, "federation.local_lr=1e38")
    taken = planned(model, tmp_path / "runs", *plain, "seed=9")
    folder = open_run(tmp_path / "runs", taken.config.name, taken.signature)
    with folder.claim():
        outcomes = together(wild, good, taken)
    assert isinstance(outcomes[0].error, RunFailed)
    assert isinstance(outcomes[2].error, ConfigError)
    wanted = result(alone(planned(model, tmp_path / "alone", *plain))[0])
    assert worst(result(outcomes[1].summary), wanted) < RTOL


def test_what_cannot_be_grouped_is_said_once_and_run_all_the_same(model, tmp_path, passes):
    odd = {
        "adapter.rank": ["adapter.rank=3"],
        "adapter.dropout": ["adapter.dropout=0.1"],
        "engine.name": ["engine=reference"],
        "the same job": [],
    }
    jobs = [planned(model, tmp_path, *settings("federation.rounds=1", *o)) for o in odd.values()]
    jobs += [
        planned(model, tmp_path, *settings("federation.rounds=1", f"seed={s}")) for s in (0, 1)
    ]
    members = [member(found) for found in jobs]
    outcomes = ended(members)
    assert [o.error for o in outcomes] == [None] * 6
    assert sorted(passes) == [1, 1, 2]
    for m, reason in zip(members[:3], odd, strict=False):
        (note,) = [n for n in m.observer.notes if "by itself" in n]
        assert note.endswith(f"because of: {reason}")
    assert not any("by itself" in n for m in (members[3], members[5]) for n in m.observer.notes)
    assert outcomes[4].summary["already_done"]


def test_where_memory_does_not_do_for_all_each_is_trained_by_itself(model, tmp_path, monkeypatch):
    real = StackedEngine._accumulate

    def little(self, job, *rest):
        if len(job.clients) > 3:
            raise RuntimeError("can't allocate memory")
        real(self, job, *rest)

    monkeypatch.setattr(StackedEngine, "_accumulate", little)
    mix = [settings("federation.rounds=1", f"seed={s}") for s in (1, 2)]
    outcomes = together(*(planned(model, tmp_path / "all", *o) for o in mix))
    for o, outcome in zip(mix, outcomes, strict=True):
        wanted = result(alone(planned(model, tmp_path / "alone", *o))[0])
        assert worst(result(outcome.summary), wanted) < RTOL
