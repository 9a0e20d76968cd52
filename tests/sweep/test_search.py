"""Optuna asks, a toy answers: it finds the optimum, goes on where it stopped, counts failures."""

from __future__ import annotations

import math

import pytest

from ffalora_cli.cli.searching import _better
from ffalora_cli.compose.overrides import Interval, split_space
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.sweep.record import SweepRecord
from ffalora_cli.sweep.search import Settings, search, values_of

SPACE = {
    "federation.local_lr": Interval(0.05, 2.0, log=True),
    "privacy.max_grad_norm": ("0.1", "0.5"),
    "federation.local_steps": Interval(1, 20, whole=True),
}


def toy(proposal):
    """Best at lr 0.5, clip 0.5, 10 steps, where it is 0."""
    lr = float(proposal["federation.local_lr"])
    steps = int(proposal["federation.local_steps"])
    miss = math.log(lr / 0.5) ** 2 + 0.01 * (steps - 10) ** 2
    return -miss - (proposal["privacy.max_grad_norm"] != "0.5")


class Toy:
    """Plays proposals, remembers them, and can be interrupted or fail."""

    def __init__(self, until=10**9, fails=()):
        self.until, self.fails, self.seen = until, fails, []

    def __call__(self, batch):
        values = {}
        for number, proposal in batch:
            if len(self.seen) == self.until:
                return values
            self.seen.append((number, dict(proposal)))
            values[number] = None if number in self.fails else toy(proposal)
        return values


def test_the_optimum_is_found(tmp_path):
    play = Toy()
    study = search(SPACE, Settings(n_trials=60), tmp_path, play)
    assert len(play.seen) == 60
    assert study.best_value == max(toy(proposal) for _, proposal in play.seen) > -0.15
    assert study.best_params["privacy.max_grad_norm"] == "0.5"
    minimized = search(SPACE, Settings(n_trials=30, direction="minimize"), tmp_path / "..", Toy())
    assert minimized.best_value < -3


def test_an_interrupted_search_proposes_what_it_would_have_proposed(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = Toy()
    search(SPACE, Settings(n_trials=25), tmp_path / "a", whole)
    first, second = Toy(until=13), Toy()
    search(SPACE, Settings(n_trials=25), tmp_path / "b", first)
    search(SPACE, Settings(n_trials=25), tmp_path / "b", second)
    assert first.seen + second.seen == whole.seen
    again = Toy()
    search(SPACE, Settings(n_trials=25), tmp_path / "b", again)
    assert again.seen == []
    search(SPACE, Settings(n_trials=27), tmp_path / "b", again)
    assert [number for number, _ in again.seen] == [26, 27]


@pytest.mark.parametrize("jobs", ["{}", '{"jobs": 3}', '{"jobs": [3]}', '{"jobs": [{}]}'])
def test_a_damaged_record_is_named(tmp_path, jobs):
    record = SweepRecord(tmp_path, "one")
    (record.path / "sweep.json").write_text(jobs)
    with pytest.raises(ConfigError, match=r"sweep\.json: damaged, it names no jobs; move"):
        record.folders()


@pytest.mark.parametrize("line", ["garbage", "{}", "3", '{"op_code": 0}'])
def test_a_damaged_journal_is_named(tmp_path, line):
    search(SPACE, Settings(n_trials=1), tmp_path, Toy())
    with (tmp_path / "trials.log").open("a") as journal:
        journal.write(f"{line}\n")
    with pytest.raises(ConfigError, match=r"trials\.log: damaged, Optuna cannot read it; move"):
        search(SPACE, Settings(n_trials=2), tmp_path, Toy())


def test_failed_trials_count_and_are_never_best(tmp_path):
    play = Toy(fails={2, 5})
    study = search(SPACE, Settings(n_trials=8, n_jobs=3), tmp_path, play)
    assert [number for number, _ in play.seen] == list(range(1, 9))
    assert [t.number + 1 for t in study.trials if t.value is None] == [2, 5]
    assert study.best_trial.number + 1 not in (2, 5)


def test_the_better_values_of_a_metric_are_sought():
    found = [_better(f"eval/{name}") for name in ("accuracy", "perplexity", "loss")]
    assert found == ["maximize", "minimize", "minimize"]


def test_the_space_is_read_from_overrides():
    fixed, space = split_space(
        [
            "federation.local_lr=tag(log, interval(0.05, 2))",
            "privacy.max_grad_norm=choice(0.1,0.5)",
            "method=lora,ffa_lora",
            "federation.local_steps=int(interval(1, 20))",
            "seed=3",
            "seed=4",
            "partition=choice(iid)",
        ]
    )
    assert fixed == ["seed=4", "partition=iid"]
    assert space == {**SPACE, "method": ("lora", "ffa_lora")}
    assert values_of(space["federation.local_lr"]) == ["0.05", "2.0"]
    assert values_of(space["federation.local_steps"]) == ["1", "20"]


@pytest.mark.parametrize("ends", ["interval(2,1)", "tag(log,interval(0,1))"])
def test_an_interval_has_an_extent(ends):
    with pytest.raises(ConfigError, match=r"federation\.local_lr=interval.*lower one first"):
        split_space([f"federation.local_lr={ends}"])
