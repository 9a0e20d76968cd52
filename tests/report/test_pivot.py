"""Tables as papers have them: cells, their best, what they hold, and LaTeX for them."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from scipy import stats

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.report.names import RAW
from ffalora_cli.report.runs.selection import select_runs
from ffalora_cli.report.table import formats, pivot
from ffalora_cli.report.table.compare import compare
from ffalora_cli.report.table.rows import Question
from tests.made_runs import write_run

ALPHA = "partition.dirichlet_alpha"
FINALS = {  # the same seeds: FFA-LoRA gains in each at 0.3, and in none reliably at 10
    ("lora", "0.3"): [0.40, 0.50, 0.60],
    ("lora", "10"): [0.70, 0.72, 0.74],
    ("ffa_lora", "0.3"): [0.42, 0.521, 0.62],
    ("ffa_lora", "10"): [0.73, 0.71, 0.74],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for (method, alpha), finals in FINALS.items():
        for seed, final in enumerate(finals):
            typed = [f"method={method}", "partition=dirichlet", f"{ALPHA}={alpha}", f"seed={seed}"]
            write_run(root, typed, [0.2, final])
    write_run(root, ["method=fedsvd", "partition=dirichlet", f"{ALPHA}=10"], [0.2, 0.1])
    return select_runs(root)


def table(runs, axes=f"method:{ALPHA}", **question):
    rows, columns = pivot.axes(axes)
    asked = Question(by=(*rows, *columns), across=columns, **{"interval": False, **question})
    return compare(runs, asked)


def test_cells_are_means_and_deviations_in_the_order_of_methods_and_numbers(runs) -> None:
    grid = pivot.grid(table(runs))
    assert grid.head == ("method", "Dirichlet α = 0.3", "Dirichlet α = 10")
    assert [row[0] for row in grid.rows] == ["LoRA", "FFA-LoRA", "FedSVD"]
    for row, method in zip(grid.rows, ("lora", "ffa_lora"), strict=False):
        for cell, alpha in zip(row[1:], ("0.3", "10"), strict=True):
            finals = 100 * np.array(FINALS[method, alpha])
            assert cell == f"{finals.mean():.2f} ± {finals.std(ddof=1):.2f}"
    assert grid.rows[2][1:] == ("-", "10.00 (1)")
    assert "cells: accuracy %; n = 3 runs each, in brackets where fewer" in grid.notes
    assert "-: not run" in grid.notes


def test_interval_instead_of_deviation(runs) -> None:
    cell = pivot.grid(table(runs, interval=True)).rows[0][2]
    finals = FINALS["lora", "10"]
    half = 100 * stats.t.ppf(0.975, 2) * stats.sem(finals)
    assert cell == f"{100 * np.mean(finals):.2f} ± {half:.2f}"


def test_best_of_each_column_by_the_paired_test(runs) -> None:
    """At 0.3 seeds differ by ten times the gain, which every one of them has."""
    grid = pivot.grid(table(runs))
    ranks = {place: rank for place, rank in grid.marks.items() if rank}
    for j, alpha in ((1, "0.3"), (2, "10")):
        ours, theirs = FINALS["ffa_lora", alpha], FINALS["lora", alpha]
        tied = stats.ttest_rel(ours, theirs).pvalue >= 0.05
        assert ranks.pop((1, j)) == "best"
        assert ranks.pop((0, j), "") == ("tied" if tied else "")
        assert tied == (alpha == "10")
    assert not ranks
    assert grid.legend["best"] == "best mean of the same Dirichlet α"


def test_best_of_each_row_and_of_a_loss(runs) -> None:
    marks = pivot.grid(table(runs, best_of="row")).marks
    assert [marks[i, 2] for i in (0, 1)] == ["best", "best"]  # α = 10 is easier
    grid = pivot.grid(table(runs, metrics=("loss",)))
    assert grid.marks[1, 1] == "best" and "lowest of loss" in grid.legend["best"]


def test_latex_has_the_key_above_its_values(runs) -> None:
    grid = pivot.grid(table(runs))
    text = formats.latex(grid, caption=r"Accuracy at $\varepsilon=6$", label="tab:main")
    assert text.isascii() and r"\label{tab:main}" in text
    assert r"\caption{Accuracy at $\varepsilon=6$}" in text
    head = text.split(r"\toprule")[1].split(r"\midrule")[0].split("\n")
    assert head[1:4] == [
        r" & \multicolumn{2}{c}{Dirichlet $\alpha$} \\", r"\cmidrule(lr){2-3}",
        r"method & 0.3 & 10 \\",
    ]  # fmt: skip
    assert r"\textbf{52.03 $\pm$ 10.00}" in text and r"\underline{72.00 $\pm$ 2.00}" in text
    assert r"FedSVD & -- & 10.00 (1) \\" in text


def test_several_keys_and_metrics_across(runs) -> None:
    grid = pivot.grid(table(runs, f"adapter.rank:method,{ALPHA}", metrics=("accuracy", "loss")))
    assert grid.head[1] == "LoRA, Dirichlet α = 0.3, accuracy %" and len(grid.head) == 1 + 2 * 5
    methods, alphas = grid.spans
    assert methods == (("", 1), ("LoRA", 4), ("FFA-LoRA", 4), ("FedSVD", 2))
    assert alphas[1:3] == (("Dirichlet α = 0.3", 2), ("Dirichlet α = 10", 2))
    assert grid.under[1:3] == ("accuracy %", "loss")
    assert "-: not run" not in grid.notes


def test_raw_names_and_plain_numbers(runs) -> None:
    found = table(runs, names=RAW)
    assert pivot.grid(found).head[1] == f"{ALPHA} = 0.3"
    rows = list(csv.DictReader(io.StringIO(pivot.as_csv(found))))
    assert [row["method"] for row in rows] == ["lora", "ffa_lora", "fedsvd"]
    name = f"{ALPHA}=0.3 eval/accuracy"
    assert float(rows[1][f"{name}:mean"]) == np.mean(FINALS["ffa_lora", "0.3"])
    assert float(rows[1][f"{name}:sd"]) == np.std(FINALS["ffa_lora", "0.3"], ddof=1)
    assert (rows[2][f"{name}:mean"], rows[2][f"{name}:n"]) == ("", "0")


def test_settings_that_differ_within_a_cell_split_it_and_are_named(runs, tmp_path) -> None:
    typed = ["method=lora", "partition=dirichlet", f"{ALPHA}=10", "adapter.rank=2"]
    write_run(tmp_path, typed, [0.2, 0.9])
    versions = {"extra": {"ffalora": "0.0.9"}}
    write_run(tmp_path, [*typed[:3], "seed=7"], [0.2, 0.7], **versions)
    grid = pivot.grid(table([*runs, *select_runs(tmp_path)]))
    assert grid.head[:2] == ("method", "rank")
    assert ("LoRA", "2", "-", "90.00 (1)") in grid.rows
    assert any("also split by adapter.rank, which is not averaged" in n for n in grid.notes)
    (note,) = (n for n in grid.notes if n.startswith("ffalora versions differ"))
    assert note.endswith("also within the mean of LoRA / 10 / 8")


@pytest.mark.parametrize("text", ["method", "method:", ":task", "a:b:c", "method:method.name"])
def test_axes_that_are_none(text) -> None:
    with pytest.raises(ConfigError, match="--pivot"):
        pivot.axes(text)
