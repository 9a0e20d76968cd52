"""A tune of real tiny runs: what it chooses, says, costs, and does when it is typed again."""

from __future__ import annotations

import csv
import math

import pytest

from ffalora_cli.cli.main import main
from ffalora_cli.cli.tuning.asked import read
from ffalora_cli.compose import catalogue
from ffalora_cli.compose.jobs import plan
from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.records.reading import find_runs, read_run
from ffalora_cli.records.state import read_failure
from ffalora_cli.report.runs.selection import value_at
from ffalora_cli.report.runs.spent_together import steps_of
from ffalora_cli.sweep.jobs import Ended
from tests.tiny import save_tiny_bert

KEY = "federation.local_lr"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("model"))


@pytest.fixture
def started(monkeypatch):
    """The command lines of all jobs that were started; each runs here, not in a process."""
    lines: list[tuple[str, ...]] = []

    def launch(jobs, on_change, stop, note):
        for job in jobs:
            lines.append(job.command.arguments)
            on_change(job, None)
            code = main(list(job.command.arguments))
            failure = read_failure(job.path) if code else None
            on_change(job, Ended(code, 0.1, failure and failure.reason))

    monkeypatch.setattr("ffalora_cli.cli.verbs.tune.open_launcher", lambda *_: launch)
    return lines


def words(model, folder, *more):
    tiny = ["model=auto", f"model.source={model}", "debug=tiny", "task.max_length=8"]
    own = [f"paths.runs={folder}/runs", "privacy.accountant=rdp", "tracking=none"]
    return ["tune", "--no-measure", *tiny, *own, "task.holdout_fraction=0.03", *more]


def rows(folder):
    (file,) = folder.glob("runs/sweeps/*/tried.csv")
    return list(csv.DictReader(file.read_text().splitlines()))


def by_kind(folder):
    """Trials and final runs by method, from their own records."""
    found: dict[str, dict[str, list]] = {"tune": {}, "eval": {}}
    for run in map(read_run, find_runs(folder / "runs")):
        kind, method = (value_at(run.config, key) for key in ("task.eval_on", "method.name"))
        found[kind].setdefault(method, []).append(run)
    return found["tune"], found["eval"]


def test_each_method_gets_its_own_best_of_equally_many_and_nothing_runs_twice(
    model, tmp_path, capsys, started
):
    typed = words(
        model, tmp_path, "privacy=none", "method=lora,ffa_lora", f"{KEY}=0.5,5,1e39"
    )  # torch refuses it
    typed += ["seed=0,1", "--refine", "0"]
    assert main(typed) == 0
    out = capsys.readouterr().out
    trials, finals = by_kind(tmp_path)
    assert {m: len(runs) for m, runs in trials.items()} == {"lora": 3, "ffa_lora": 3}
    seeds = [
        {run.config["seed"] for runs in kind.values() for run in runs} for kind in (trials, finals)
    ]
    assert seeds == [{1000}, {0, 1}]
    for method, own in trials.items():
        value = {
            run.config["federation"]["local_lr"]: run.summary["final"]["eval/accuracy"]
            for run in own
            if run.summary and math.isfinite(run.summary["final"]["eval/accuracy"])
        }
        assert set(value) == {0.5, 5.0}
        top = min(rate for rate in value if value[rate] == max(value.values()))
        assert {run.config["federation"]["local_lr"] for run in finals[method]} == {top}
        marked = [r for r in rows(tmp_path) if r["method"] == method and r["chosen"] == "True"]
        assert [float(row[KEY]) for row in marked] == [top]
    lost = [row for row in rows(tmp_path) if float(row[KEY]) == 1e39]
    assert len(lost) == 2 and all(row["failure"] for row in lost)
    assert "3 settings for each" in out and "each at its best: FFA-LoRA: " in out
    assert "one setting for all: federation.local_lr=" in out
    done = len(started)
    assert done == 2 * 3 + 2 * 2
    assert main(typed) == 0
    assert len(started) == done + 2  # what failed before its first round may not fail again
    (file,) = tmp_path.glob("runs/sweeps/*/chosen/ffa_lora.yaml")
    assert "Chosen by ffalora tune" in file.read_text()


def test_a_private_tune_goes_on_past_an_edge_and_its_statements_hold_all_its_ledgers(
    model, tmp_path, capsys, started
):
    typed = words(model, tmp_path, "privacy=text", "partition=iid", "privacy.max_grad_norm=0.1,0.2")
    assert main(typed) == 0
    out = " ".join(capsys.readouterr().out.split())
    trials, finals = ([run for own in kind.values() for run in own] for kind in by_kind(tmp_path))
    clips = sorted(run.config["privacy"]["max_grad_norm"] for run in trials)
    assert len(clips) == 3 and (clips[0] == 0.05 or clips[-1] == 0.4)  # outward from the best
    (final,) = finals
    tuning = final.privacy["tuning"]
    assert (tuning["distribution"], tuning["trials"]) == ("earlier runs", 3)
    # Trials trained on other rows than the final run: a unit may be on any client of either.
    accountant = Accountant("rdp", final.privacy["delta"])
    together = [
        accountant.epsilon([*(step for run in trials for step in [steps_of(run)[i]]), mine])
        for i in range(len(steps_of(trials[0])))
        for mine in steps_of(final)
    ]
    assert tuning["epsilon"] >= max(together) * (1 - 1e-3)
    assert tuning["epsilon"] == pytest.approx(max(together), rel=0.02)
    assert tuning["epsilon"] > final.privacy["epsilon_max"]["spent"]
    assert "with the 3 trials that chose its setting epsilon" in out
    assert "everything that was run, 4 private runs together: epsilon" in out
    assert "is at the edge of what was tried" in out


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        (["--tuning-seeds", "1", "seed=0,1"], "choose another, as 1000"),
        (["--keys", "federation.local_rl"], "federation.local_lr"),
        (["--keys", "seed", "seed=0,1"], "cannot be tuned"),
        (["task.eval_on=tune"], "give eval or test"),
        ([f"{KEY}=interval(0.1,1)"], "add hydra/sweeper=optuna"),
        (["--keys", "federation.lr_schedule"], "give values, federation.lr_schedule=A,B"),
        (["--refine", "-1"], "0 (the grid alone) or more"),
        (["hydra/sweeper=optuna", "hydra.sweeper.direction=minimize"], "leave it out"),
        (["--save", "a/b"], "letters, digits"),
    ],
)
def test_what_cannot_be_tuned_is_one_line_and_nothing_is_written(
    typed, complaint, tmp_path, capsys
):
    assert main(["tune", f"paths.runs={tmp_path}", *typed]) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "still" not in one]
    assert complaint in line
    assert list(tmp_path.iterdir()) == []


def test_a_chosen_setting_is_an_experiment(model, tmp_path, capsys, started, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = words(
        model, tmp_path, "privacy=none", "method=ffa_lora", f"{KEY}=0.5,5", "--save", "mine"
    )
    assert main([*typed, "--refine", "0"]) == 0
    (final,) = by_kind(tmp_path)[1]["ffa_lora"]
    catalogue._options.cache_clear()  # this process looked before the file was there
    (job,) = plan(["experiment=mine", "debug=tiny", f"paths.runs={tmp_path}/runs"])
    assert job.config.federation.local_lr == final.config["federation"]["local_lr"]
    assert (job.config.method.name, job.config.model.source) == ("ffa_lora", str(model))


def test_what_is_typed_twice_is_tried_once():
    typed = ["debug=tiny", "privacy=none", "method=lora,lora,ffa_lora", f"{KEY}=0.1,0.10,1e-1,1"]
    asked = read([*typed, "seed=1,1,2"], (), (), 0, None)
    assert [cell.fixed for cell in asked.cells] == [("method=lora",), ("method=ffa_lora",)]
    assert asked.cells[0].axes == {KEY: ("0.1", "1")} and asked.seeds == ("1", "2")
    assert asked.runs == 2 * (2 + 2)


def test_a_trial_that_diverges_in_a_process_of_its_own_is_tried_once(model, tmp_path):
    typed = words(model, tmp_path, "privacy=none", "method=lora", f"{KEY}=0.5,3e38")
    typed += ["--refine", "0", "federation.local_steps=3", "federation.rounds=2"]
    assert main(typed) == 0
    (lost,) = [row for row in rows(tmp_path) if float(row[KEY]) == 3e38]
    assert "round 2: diverged" in lost["failure"] and lost["chosen"] == "False"
    (log,) = tmp_path.glob("runs/sweeps/*/jobs.jsonl")
    played = log.read_text().count('"running"')
    assert played == 3
    assert main(typed) == 0
    assert log.read_text().count('"running"') == played


def test_a_search_of_real_runs_proposes_chooses_and_goes_on(model, tmp_path, started):
    pytest.importorskip("optuna")
    space = f"{KEY}=tag(log,interval(0.5,5))"
    typed = words(model, tmp_path, "privacy=none", "method=lora,ffa_lora", space)
    typed += ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2"]
    assert main(typed) == 0
    trials, finals = by_kind(tmp_path)
    for method in ("lora", "ffa_lora"):
        rates = {run.config["federation"]["local_lr"] for run in trials[method]}
        assert len(rates) == 2 and all(0.5 <= rate <= 5 for rate in rates)
        assert {run.config["federation"]["local_lr"] for run in finals[method]} < rates
    assert len(started) == 2 * (2 + 1)
    assert main(typed) == 0 and len(started) == 6
    assert main([*typed[:-1], "hydra.sweeper.n_trials=3"]) == 0
    assert len(by_kind(tmp_path)[0]["lora"]) == 3
