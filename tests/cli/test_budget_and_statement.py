"""``budget`` and ``show --privacy``: numbers against the accountants, 80 columns, strict JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from ffalora_cli.cli.main import main
from ffalora_cli.cli.privacy_words import statement_lines
from ffalora_cli.privacy.accountants import epsilon
from ffalora_cli.privacy.plan import make_plan
from ffalora_cli.privacy.shared_rows import SharedRows
from ffalora_cli.privacy.statement import statement

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from privacy_cases import federation, privacy

GIVEN = ["budget", "--examples", "22450", "--batch", "200", "--delta", "1e-5"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FFALORA_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_budget_json(capsys, tmp_path):
    plot = tmp_path / "b.svg"
    words = ["--steps", "1000", "--epsilon", "3", "--format", "json", "--plot", str(plot)]
    assert main([*GIVEN, *words]) == 0
    found = json.loads(capsys.readouterr().out)
    value = epsilon("pld", [(found["noise_multiplier"], 200 / 22_450, 1000)], 1e-5)
    assert 0.999 * 3 <= value <= 3 and value == found["epsilon"]
    assert plot.read_text().startswith("<?xml")


def test_budget_table_of_all(capsys):
    assert main([*GIVEN, "--steps", "100", "--noise-multiplier", "1", "--accountant", "all"]) == 0
    text = capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines()[1:4]] == ["pld", "rdp", "prv"]
    shown = [float(line.split()[1]) for line in text.splitlines()[1:4]]
    main([*GIVEN, "--steps", "100", "--noise-multiplier", "1", "--accountant", "all",
          "--format", "json"])  # fmt: skip
    exact = [row["epsilon"] for row in json.loads(capsys.readouterr().out)]
    assert all(0 <= up - value < 1e-4 for up, value in zip(shown, exact, strict=True))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--epsilon", "3"], "exactly two"),
        (["--epsilon", "3", "--steps", "0"], "--steps 0"),
        (["--epsilon", "-1", "--steps", "5"], "--epsilon -1"),
        (["--epsilon", "500", "--steps", "5"], "lower the target"),
        (["--epsilon", "0.5", "--noise-multiplier", "0.2"], "at least 0.7"),
        (["--batch", "30000", "--epsilon", "3", "--steps", "5"], "sampling rate of 1.34"),
        (["--noise-multiplier", "0.01", "--steps", "5"], "0.1 or more"),
        (["--epsilon", "3", "--steps", "5", "--plot", "a.txt"], ".png"),
    ],
)
def test_bad_budgets_are_one_line(words, said, capsys):
    assert main([*GIVEN, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and len(line) <= 200


def test_the_statement_in_words():
    shared = SharedRows(np.array([0, 2]), np.array([0]), repeated=40, copies=2)
    given = privacy(trials=12, epsilon_target=3.0)
    plan = make_plan(given, [24_526, 20_373, 22_450], federation(), ["lora_b"], shared)
    said = statement(plan, plan.planned_steps)
    lines = statement_lines(json.loads(json.dumps(said)))
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    for words in (
        "epsilon 6.00 (a row on up to 2 clients, their epsilons added; 3.00 is the largest of 3",
        "delta 2e-5",
        "best of a geometric number of runs, 12 on average: epsilon 5.8",
        "1 texts on several clients (at most 2)",
        "40 rows stand more than once",
        "without amplification",
        "1e-5, below 1/n = 4.08e-5",
        "24,526",
        "not covered:",
    ):
        assert words in text, words
    many = make_plan(
        privacy(), list(range(5_000, 5_040)), federation(num_clients=40, rounds=5), ["a"]
    )
    assert max(map(len, statement_lines(statement(many)))) <= 80
    for other in ({"sampling": "fixed"}, {"sampling": "shuffled", "accountant": "pld"}):
        plan = make_plan(privacy(**other), [24_526], federation(num_clients=1, rounds=20), ["a"])
        said = statement(plan)
        assert said["relation"] in said["sentence"]
        assert max(map(len, statement_lines(said))) <= 80
