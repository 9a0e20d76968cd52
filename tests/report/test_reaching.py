"""The first evaluation with a score: what it took, and runs that never do."""

from __future__ import annotations

import numpy as np
import pytest

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.report.runs.moments import parse
from ffalora_cli.report.runs.selection import select_runs
from ffalora_cli.report.table import pivot, side_by_side
from ffalora_cli.report.table.compare import compare
from ffalora_cli.report.table.notes import notes
from ffalora_cli.report.table.rows import Question
from tests.made_runs import EPSILONS, made_run, write_run

CURVES = {
    ("lora", 0): [0.2, 0.5, 0.7, 0.9],
    ("lora", 1): [0.2, 0.5, 0.6, 0.7],  # never
    ("ffa_lora", 0): [0.2, 0.8, 0.7, 0.7],  # not for good
    ("ffa_lora", 1): [0.2, 0.3, 0.4, 0.8],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for (method, seed), scores in CURVES.items():
        made_run(root, [f"method={method}", f"seed={seed}"], scores)
    return select_runs(root)


def table(runs, at, **question):
    return compare(runs, Question(point=parse(at, runs), interval=False, **question))


def test_costs_are_means_of_the_runs_that_reach_it(runs) -> None:
    found = table(runs, "accuracy=0.8")
    lora, ffa = found.rows
    assert found.metrics == ("round", "uplink_bytes", "epsilon", "seconds")
    assert [(row.reached, len(row.runs)) for row in found.rows] == [(1, 2), (2, 2)]
    assert [cell.sample.mean for cell in lora.cells] == [3, 3e6, EPSILONS[2], 6.0]
    rounds = np.array([1, 3])
    for cell, values in zip(
        ffa.cells, (rounds, rounds * 1e6, [EPSILONS[0], EPSILONS[2]], rounds * 2.0), strict=True
    ):
        assert cell.sample.mean == pytest.approx(np.mean(values))
        assert cell.sample.sd == pytest.approx(np.std(values, ddof=1))
    assert not any(cell.rank for row in found.rows for cell in row.cells)  # one row is not whole
    text = " ".join(notes(found))
    assert "never reached by 1 of 4 runs, in no mean" in text and "(best 70.00)" in text
    assert "1 of those that reached it scored worse at some later evaluation" in text
    assert "first evaluation with accuracy at least 80.00 %" in text
    grid = side_by_side.grid(found)
    assert grid.head[1:3] == ("reached", "rounds") and grid.rows[0][1:3] == ("1/2", "3.0")
    assert grid.rows[1][1:3] == ("2/2", "2.0 ± 1.4")


def test_a_score_that_all_reach_is_ranked_and_one_that_nobody_does_is_an_answer(runs) -> None:
    found = table(runs, "accuracy=0.3")
    assert [row.cells[0].rank for row in found.rows] == ["best", "tied"]
    nobody = side_by_side.grid(table(runs, "accuracy=0.99"))
    assert [row[1] for row in nobody.rows] == ["0/2", "0/2"]
    assert nobody.head == ("method", "reached")


def test_cells_of_a_pivot_say_who_never_reaches_it(runs) -> None:
    found = table(runs, "accuracy=80%", by=("method", "task"), across=("task",), metrics=("round",))
    assert [row[1] for row in pivot.grid(found).rows] == ["3.0 (1/2)", "2.0 ± 1.4"]


def test_a_loss_is_reached_from_above(tmp_path) -> None:
    for seed in (0, 1):
        write_run(tmp_path, [f"seed={seed}"], [0.2, 0.5, 0.7 + seed / 10])
    found = table(select_runs(tmp_path), "loss=0.25")
    assert found.rows[0].reached == 1 and found.rows[0].cells[0].sample.mean == 2
    assert "loss at most 0.25" in " ".join(notes(found))


@pytest.mark.parametrize(
    ("at", "rounds"), [("epsilon=8.5", 2), ("seconds=4", 2), ("bytes=1.9MB", 1), ("epsilon=1", 0)]
)
def test_budgets_take_the_last_evaluation_within(runs, at, rounds) -> None:
    found = table(runs, at, metrics=("round",))
    assert {row.cells[0].sample.mean for row in found.rows} == {rounds}


@pytest.mark.parametrize(
    ("at", "answer"),
    [
        ("accuracy=80", "write --at accuracy=0.8, or 80%"),
        ("accuracy=high", "write --at accuracy=0.8"),
        ("accuracy", "did you mean 'accuracy'?"),
        ("acuracy=0.8", "did you mean 'accuracy'?"),
        ("epsilon=low", "write --at epsilon=3"),
        ("bytes=1e400", "write --at bytes=10MB"),
        ("accuracy=1e400", "write --at accuracy=0.8"),
        ("comm/uplink_bytes_total=5", "write a metric of its task, or a budget"),
    ],
)
def test_scores_that_cannot_be_reached(runs, at, answer) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(at, runs)
    assert answer in str(caught.value)
