"""``evaluation.max_examples``: the same rows in every run of a task, recorded and compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.data.dataset import prepare, some_rows
from ffalora_cli.models.backbone import load_tokenizer
from ffalora_cli.records.reading import read_run
from ffalora_cli.report.runs.settings import MEANINGLESS, differences

FILM = ["task=sst2", "model=minilm", "privacy=none"]


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data" / "sst2"
    folder.mkdir(parents=True)
    for split, size in (("train", 60), ("validation", 40)):
        rows = [f"{split} film {'good ' * (i % 7)}{i},{i % 2}" for i in range(size)]
        (folder / f"{split}.csv").write_text("\n".join(["sentence,label", *rows]))
    return str(folder.parent)


def prepared(data, tmp_path, *words):
    (job,) = plan([*FILM, *words])
    most = job.config.evaluation.max_examples
    tokenizer = load_tokenizer(job.config.model)
    cache = str(tmp_path / "cache")
    return prepare(
        job.config.task, tokenizer, data, cache, max_examples=most, keep_together="text"
    ), job


def test_the_same_rows_in_every_run_in_their_order(data, tmp_path):
    whole, job = prepared(data, tmp_path)
    some, other = prepared(data, tmp_path, "evaluation.max_examples=15", "seed=7")
    rows = some.evals["validation"]
    everything = [whole.evals["validation"].take(np.array([i])).ids.tolist() for i in range(40)]
    kept = [everything.index(rows.take(np.array([i])).ids.tolist()) for i in range(15)]
    assert kept == sorted(set(kept)) and kept != list(range(15))  # not the leading ones
    again, _ = prepared(data, tmp_path, "evaluation.max_examples=15", "seed=8")
    assert again.evals["validation"].fingerprint == rows.fingerprint
    assert rows.fingerprint != whole.evals["validation"].fingerprint
    assert job.signature != other.signature
    facts = some.facts["evals"]["validation"]
    assert (facts["rows"], facts["rows_of_split"]) == (15, 40)
    assert len(some.train) == len(whole.train) == 60
    assert some_rows(job.config.task, "validation", rows, 15) is rows  # all where it has fewer


def test_runs_scored_on_other_rows_do_not_stand_in_one_column(tmp_path):
    from tests.made_runs import write_run

    runs = [read_run(write_run(tmp_path / f"{i}", FILM, [0.1, 0.2])) for i in range(2)]
    evals = {"validation": {"fingerprint": "other rows"}}
    data = {**(runs[1].manifest.get("data") or {}), "evals": evals}
    runs[1] = replace(runs[1], manifest={**runs[1].manifest, "data": data})
    assert "evaluation rows" in [aspect.name for aspect in differences(runs, MEANINGLESS)]


def test_none_is_refused_and_the_small_configurations_bound_it():
    with pytest.raises(ConfigError, match=r"evaluation\.max_examples=0 should be 1 or more"):
        plan([*FILM, "evaluation.max_examples=0"])
    for debug, rows in (("smoke", 200), ("tiny", 50)):
        assert plan([*FILM, f"debug={debug}"])[0].config.evaluation.max_examples == rows
    assert plan(FILM)[0].config.evaluation.max_examples is None
