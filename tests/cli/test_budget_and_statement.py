"""``budget`` and ``show --privacy``: numbers against the accountants, 80 columns, strict JSON."""

from __future__ import annotations

import json

import pytest

from ffalora_cli.cli.main import main
from ffalora_cli.cli.screen.privacy_words import statement_lines
from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.privacy.claim.statement import statement
from ffalora_cli.privacy.planning.make import make_plan
from tests.privacy.cases import federation, privacy

GIVEN = ["budget", "--examples", "22450", "--batch", "200", "--delta", "1e-5"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_budget_json(capsys, tmp_path):
    plot = tmp_path / "b.svg"
    words = ["--steps", "1000", "--epsilon", "3", "--format", "json", "--plot", str(plot)]
    assert main([*GIVEN, *words]) == 0
    found = json.loads(capsys.readouterr().out)
    value = Accountant("pld", 1e-5).epsilon([(found["noise_multiplier"], 200 / 22_450, 1000)])
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
        (["--epsilon", "500", "--steps", "5", "--accountant", "rdp"], "lower the target"),
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
    shared = ((0, 2),)
    given = privacy(trials=12, epsilon_target=3.0)
    plan = make_plan(given, [24_526, 20_373, 22_450], federation(), ["lora_b"], shared)
    said = statement(plan, plan.planned_steps)
    lines = statement_lines(json.loads(json.dumps(said)))
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    for words in (
        "epsilon 4.42 (any text on several clients, composed; unit text, add/remove one, delta",
        "best of a geometric number of runs, 12 on average: epsilon 8.22 (unit text, delta 1e-5,",
        "clip 2, flat: one norm over all covered tensors, cut to max_grad_norm; a row's gradient",
        " alone, the same noise: PLD",  # below the claim, which is of two clients
        "one of several rows of a text 3.",
        "two texts together 6.1",
        "without amplification",
        "1e-5, below 1/n = 4.08e-5",
        "24,526",
        "not covered:",
    ):
        assert words in text, words
    many = make_plan(
        privacy(), [5_000, 5_039] * 20, federation(num_clients=40, rounds=5), ["a"]
    )  # two mechanisms: the lines are of their quantiles
    assert max(map(len, statement_lines(statement(many)))) <= 80
    for other in ({"sampling": "fixed"}, {"sampling": "shuffled", "accountant": "pld"}):
        given = privacy(**other, epsilon_target=None, noise_multiplier=1.0)
        plan = make_plan(given, [24_526], federation(num_clients=1, rounds=2), ["a"])
        said = statement(plan)
        assert said["relation"] in said["sentence"]
        assert max(map(len, statement_lines(said))) <= 80


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clip": "per_layer"}, "per_layer: each layer cut to max_grad_norm / sqrt(layers)"),
        ({"clip": "automatic"}, "automatic: every gradient scaled by max_grad_norm / (norm"),
        ({"clip_quantile": 0.5, "clip_count_noise": 9.0}, "adaptive, to quantile 0.5: max_grad_"),
    ],
)
def test_the_clip_line_says_the_rule_that_ran(changes, words):
    plan = make_plan(privacy(**changes), [24_526], federation(num_clients=1), ["lora_b"])
    said = statement(plan)
    lines = statement_lines(said)
    first = next(i for i, line in enumerate(lines) if line.startswith("clip "))
    last = next(i for i, line in enumerate(lines) if line.startswith("noise "))
    assert words in " ".join(" ".join(lines[first:last]).split())
    bounded = changes.get("clip") == "per_layer"  # a projection; the others are none
    assert (said["largest"]["one_row"] is not None) == bounded


def test_a_statement_of_the_schema_before_is_still_read():
    """Written at unit example, with sums over clients under ``shared_rows``."""
    said = statement(make_plan(privacy(), [24_526], federation(num_clients=1), ["lora_b"]))
    for key in ("one_row", "two_units", "three_units"):
        del said["largest"][key]
    for key in ("delta", "unit", "method"):
        del said["tuning"][key]
    old = said | {
        "schema": 2,
        "unit": "example",
        "sentence": "epsilon 12.00 (a row on up to 2 clients, their epsilons added)",
        "shared_rows": {"texts_on_several_clients": 3, "most_clients": 2},
    }
    old["tuning"] |= {"epsilon": 10.59, "trials": 12.0, "distribution": "geometric"}
    text = " ".join(" ".join(statement_lines(old)).split())
    assert "epsilon 12.00 (a row on up to 2" in text and "epsilon 10.59 (RDP)" in text
