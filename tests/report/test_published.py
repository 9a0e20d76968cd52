"""Published numbers are what their papers say, and stay apart from ours."""

from __future__ import annotations

import csv
import io
import json
from importlib import resources

import numpy as np
import pytest
import yaml

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.report.runs.moments import parse
from ffalora_cli.report.runs.selection import select_runs
from ffalora_cli.report.table.beside import (
    as_csv,
    as_json,
    our_numbers,
    table_named,
    with_published,
)
from ffalora_cli.report.table.published import MARKS, TABLES
from ffalora_cli.report.table.rows import Question
from tests.grids import one_job
from tests.made_runs import write_run


def value(table: str, source: str, *key: str) -> float:
    (found,) = (
        n.value
        for n in table_named(table).numbers
        if n.source == source and (n.task, n.metric, n.setting, n.method) == key
    )
    return found


def test_cells_of_the_papers() -> None:
    paper = "paper"
    mismatched = "eval/validation_mismatched/accuracy"
    assert value("heterogeneity", paper, "mnli", "eval/accuracy", "iid", "ffa_lora") == 87.13
    assert value("heterogeneity", paper, "mnli", mismatched, "severe", "ffa_lora") == 85.62
    assert value("heterogeneity", paper, "qqp", "eval/accuracy", "mild", "lora") == 84.41
    assert value("table1", "paper", "mnli", "eval/accuracy", "6", "lora") == 39.46
    assert value("table1", "FedSVD", "qnli", "eval/accuracy", "3", "fedsvd") == 77.10


@pytest.mark.parametrize(
    ("epsilon", "method", "snli", "average"),
    [
        ("null", "lora", 84.16, 75.51),
        ("null", "ffa_lora", 82.54, 84.57),
        ("null", "fedsvd", 85.70, 86.18),
        ("3", "lora", 36.70, 50.71),
        ("3", "ffa_lora", 56.96, 66.00),
        ("3", "fedsvd", 70.89, 75.63),
    ],
)
def test_rows_of_fedsvd_have_their_published_average(epsilon, method, snli, average) -> None:
    """Averages of six tasks, SNLI with them; those at epsilon 6 are not the means of their rows."""
    found = [
        n.value
        for n in table_named("table1").numbers
        if (n.source, n.setting, n.method) == ("FedSVD", epsilon, method)
    ]
    assert len(found) == 5
    assert np.mean([snli, *found]) == pytest.approx(average, abs=0.01)  # of rounded numbers


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.experiment)
def test_every_table_is_an_experiment_with_its_grid(table) -> None:
    file = resources.files("ffalora_cli.configs").joinpath("experiment", f"{table.experiment}.yaml")
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    grid = content["hydra"]["sweeper"]["params"]
    swept = set(grid[table.axis].split(","))
    assert swept == set(table.settings) - {"null"}
    assert grid["method"] == "lora,ffa_lora"
    for number in table.numbers:
        assert number.mark in MARKS and number.setting in table.settings
        assert 30 < number.value < 100


def test_the_protocol_of_an_experiment_is_the_papers() -> None:
    from ffalora_cli.compose.jobs import plan
    from ffalora_cli.report.runs.selection import spelled, value_at

    for table in TABLES:
        config = plan(one_job(table.experiment))[0].resolved
        names = {"model": "model.name", "partition": "partition.label_mix"}
        for key, wanted in table.protocol.items():
            assert spelled(value_at(config, names.get(key, key))) == wanted, key


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of FFA-LoRA at epsilon 6 on SST-2, MiniLM; one run of LoRA with RoBERTa."""
    folder = tmp_path_factory.mktemp("runs")
    base = ["experiment=table1", "federation=short", "task=sst2", "privacy.epsilon_target=6"]
    for seed, final in ((0, 0.80), (1, 0.82)):
        write_run(
            folder, [*base, "method=ffa_lora", "model=minilm", f"seed={seed}"], [0.5, 0.9, final]
        )
    write_run(folder, [*base, "method=lora", "seed=0"], [0.5, 0.7])
    write_run(folder, [*base, "method=lora", "seed=1"], [0.5], finished=False)
    return folder


def test_ours_beside_theirs_and_never_in_one_mean(runs) -> None:
    table = table_named("table1")
    selected = select_runs(runs, ["experiment=table1"])
    ours = our_numbers(selected, table, Question())
    assert {(n.method, n.source, round(n.value, 6), n.count) for n in ours} == {
        ("ffa_lora", "ours, model minilm", 81.0, 2),
        ("lora", "ours, model roberta_large", 70.0, 1),
    }
    grid = with_published(table, ours, selected, Question())
    start = next(i for i, row in enumerate(grid.rows) if row[:2] == ("sst2", "6"))
    minilm, roberta, paper, fedsvd = grid.rows[start : start + 4]
    assert minilm[2:5] == ("ours, model minilm", "not run", "81.00 ± 12.71 (2)")
    assert roberta[2:5] == ("ours, model roberta_large", "70.00 (1)", "not run")
    assert paper[2:] == ("paper", "not found", "not found", "-")
    assert fedsvd[2:4] == ("FedSVD S", "89.41 ± 2.18")
    text = "\n".join(grid.notes)
    assert "protocol: federation.rounds is 100 here, 1000 in the paper" in text
    assert "protocol: model is minilm, roberta_large here, roberta_large in the paper" in text
    assert "protocol: head.mode" not in text
    question = Question(point=parse("best-validation"))
    best = our_numbers(selected, table, question)
    assert max(n.value for n in best) == 90.0
    assert "optimistic" in " ".join(with_published(table, best, selected, question).notes)
    assert "optimistic" not in text


def test_nothing_run_is_an_answer() -> None:
    for table in TABLES:
        grid = with_published(table, [], [], Question())
        assert any(f"ffalora sweep experiment={table.experiment}" in n for n in grid.notes)
        assert all("ours" not in row[2] or set(row[3:]) == {"not run"} for row in grid.rows)
    assert len(with_published(table_named("heterogeneity"), [], [], Question()).rows) == 30


def test_csv_and_json_keep_ours_apart(runs) -> None:
    table = table_named("table1")
    selected = select_runs(runs)
    ours = our_numbers(selected, table, Question())
    rows = list(csv.DictReader(io.StringIO(as_csv(table, ours))))
    assert len(rows) == len(ours) + len(table.numbers)
    assert [row["mark"] for row in rows[: len(ours)]] == [""] * len(ours)
    content = json.loads(as_json(table, ours, selected, Question()))
    assert len(content["published"]) == len(table.numbers)
    assert {n["source"] for n in content["ours"]} == {n.source for n in ours}


def test_an_unknown_table_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'table1'"):
        table_named("tabel1")
