"""Runs of a tiny language model that write answers: when, which rows, what is kept and where."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from ffalora_cli import metric_keys
from ffalora_cli.cli.main import main
from ffalora_cli.compose.jobs import plan
from ffalora_cli.experiment.run import run
from ffalora_cli.metric_keys import evaluated, interval
from ffalora_cli.records.leaving import may_leave
from ffalora_cli.records.reading import read_run
from ffalora_cli.records.run_directory import GENERATED
from ffalora_cli.tasks.generated_answers import COMPARISONS, UNFINISHED, wilson
from tests.language import save_tiny_llama, write_rows
from tests.trackers import Silent

ROWS = 5


class Watching(Silent):
    """Keeps what it is told of work within rounds."""

    def __init__(self):
        super().__init__()
        self.told = []

    def working(self, on, done, total):
        self.told.append((on, done, total))


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    """A run of three rounds on a tiny Llama."""
    root = tmp_path_factory.mktemp("generated")
    save_tiny_llama(root / "model")
    write_rows(root / "data")
    return [
        "task=gsm8k", "task.name=talk", r"task.prompt='q: {question}\na:'",
        "task.completion=' {answer}'", "task.max_length=40", "task.splits={train: train}",
        "model=auto", f"model.source={root / 'model'}", "+model.targets.mine=[q_proj,v_proj]",
        "adapter.targets=mine", "partition=iid", "privacy=none", "federation.rounds=3",
        "federation.local_steps=1", "federation.local_batch_size=4", "federation.num_clients=2",
        f"paths.data={root / 'data'}", f"paths.runs={root / 'runs'}", f"paths.cache={root / 'c'}",
        f"task.generate.rows={ROWS}", "task.generate.max_new_tokens=6", "task.generate.every=2",
        "task.generate.metrics=[exact_match,rouge_l]", r"task.generate.extract='[a-z]+'",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def done(typed):
    """Folder and observer of the run."""
    observer = Watching()
    return Path(run(plan(typed)[0], observer)["run_dir"]), observer


def test_answers_are_scored_where_that_is_due(done):
    """Rounds that ``every`` divides and the last, not the first; keys that the page lists."""
    key = evaluated("exact_match")
    records = read_run(done[0]).rounds
    scored = {r.round: r.metrics for r in records if key in r.metrics}
    assert list(scored) == [2, 3]
    for metrics in scored.values():
        assert all(metric_keys.described(name) for name in metrics)
        assert tuple(metrics[end] for end in interval(key)) == wilson(metrics[key], ROWS)
        assert not metrics.keys() & set(interval(evaluated("rouge_l")))
    on, counts, totals = zip(*done[1].told, strict=True)
    assert set(on) == {"answers"} and set(totals) == {ROWS} and 0 <= min(counts) < max(counts)


def test_the_last_answers_are_kept_as_they_were_scored(done):
    lines = [json.loads(line) for line in (done[0] / GENERATED).read_text().splitlines()]
    assert {line["round"] for line in lines} == {3} and len(lines) == ROWS
    last = read_run(done[0]).rounds[-1].metrics
    for name in ("exact_match", "rouge_l"):
        again = [COMPARISONS[name](x["answer"], x["reference"], "[a-z]+").score for x in lines]
        assert last[evaluated(name)] == np.mean(again) == np.mean([x[name]["score"] for x in lines])
    cut = [not line["finished"] for line in lines]
    assert last[evaluated(UNFINISHED)] == np.mean(cut)
    assert all(len(x["answer"].split()) == 6 for x, long in zip(lines, cut, strict=True) if long)
    asked = {x["prompt"].replace("<s>", "").replace(" ", "") for x in lines}
    assert all(prompt.startswith("q:") and prompt.endswith("a:") for prompt in asked)


def test_they_leave_no_run_folder():
    assert not any(may_leave(f"file.{GENERATED}", unit) for unit in ("none", "row", "client"))


def test_every_run_answers_the_same_rows_and_before_training_only_when_asked(typed, done):
    other = plan([*typed, "seed=5", "task.generate.initial=true", "federation.rounds=1"])[0]
    folder = Path(run(other, Silent())["run_dir"])
    key = evaluated("exact_match")
    assert [r.round for r in read_run(folder).rounds if key in r.metrics] == [0, 1]
    prompts, others = (
        [json.loads(line)["prompt"] for line in (at / GENERATED).read_text().splitlines()]
        for at in (done[0], folder)
    )
    assert prompts == others


def test_show_says_scores_and_some_answers(done, capsys):
    assert main(["show", str(done[0])]) == 0
    assert "generated exact_match " in capsys.readouterr().out
    assert main(["show", str(done[0]), "--answers"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("round     3, 5 of 5 answers") and said.count("\nreference ") == 5
    assert main(["compare", str(done[0]), "--metric", "exact_match"]) == 0
    assert "exact_match: 95 % interval of a run's answers (Wilson)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ("task.generate.max_new_tokens=60", r"beyond the 64 tokens that the model reads; set \d+"),
        ("task.generate.metrics=[rouge]", "did you mean 'rouge_l'"),
        ("task.generate.extract='('", "no regular expression"),
        ("task.generate.metrics=[rouge_l]", "extract is what exact_match compares"),
        ("task.generate.every=0", "task.generate.every=0 should be 1 or more"),
        ("task.generate.row=4", "did you mean 'task.generate.rows'"),
    ],
)
def test_what_cannot_be_generated_is_refused_in_a_line_and_nothing_is_written(
    typed, tmp_path, changed, says, capsys
):
    key = changed.partition("=")[0]
    kept = [word for word in typed if not word.startswith((f"{key}=", "paths.runs="))]
    assert main(["run", "--quiet", *kept, f"paths.runs={tmp_path / 'none'}", changed]) == 2
    said = capsys.readouterr()
    assert re.search(says, said.err), said.err
    assert len(said.err.splitlines()) == 1 and not (tmp_path / "none").exists()


def test_interval_of_few_rows_is_wide():
    low, high = wilson(1.0, ROWS)
    assert high == 1.0 and math.isclose(low, 0.5655, abs_tol=1e-4)
