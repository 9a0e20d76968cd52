"""Comparisons of runs with known numbers: rows, pairs, evaluation points, refusals, notes."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from scipy import stats

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.report.runs.moments import parse
from ffalora_cli.report.runs.selection import select_runs
from ffalora_cli.report.table.compare import compare
from ffalora_cli.report.table.notes import baseline_name, legend, notes
from ffalora_cli.report.table.rows import Question
from ffalora_cli.report.table.side_by_side import grid
from tests.made_runs import write_run

LORA, FFA = [0.50, 0.54, 0.49], [0.60, 0.61, 0.62]  # final accuracy by seed


@pytest.fixture(scope="module")
def six_runs(tmp_path_factory):
    """LoRA and FFA-LoRA, three seeds each; accuracy peaks before the last round."""
    folder = tmp_path_factory.mktemp("six")
    for method, finals in (("lora", LORA), ("ffa_lora", FFA)):
        for seed, final in enumerate(finals):
            curve = [0.2, final + 0.1, final]
            write_run(folder, [f"method={method}", f"seed={seed}"], curve)
    return folder


@pytest.fixture
def runs(six_runs, tmp_path):
    """The same in a folder of the test's own."""
    return shutil.copytree(six_runs, tmp_path / "runs")


def table(runs, **question):
    selectors = question.pop("selectors", ())
    return compare(select_runs(runs, selectors), Question(**question))


def test_rows_are_means_over_seeds_with_paired_differences(runs) -> None:
    found = table(runs)
    assert found.columns == ("method",)
    assert found.metrics == ("eval/accuracy",)
    lora, ffa = found.rows
    assert (ffa.settings, lora.settings) == (("ffa_lora",), ("lora",))
    for row, finals in ((ffa, FFA), (lora, LORA)):
        sample = row.cells[0].sample
        interval = stats.t.interval(0.95, 2, np.mean(finals), stats.sem(finals))
        assert sample.interval == pytest.approx(interval)
        assert sample.sd == pytest.approx(np.std(finals, ddof=1))
        assert (row.uplink_bytes, row.epsilon) == (200.0, 6.0)
    gap = ffa.cells[0].against
    reference = stats.ttest_rel(FFA, LORA).confidence_interval(0.95)
    assert gap.differences.interval == pytest.approx((reference.low, reference.high))
    assert [pair[0] for pair in gap.pairs] == ["seed 0", "seed 1", "seed 2"]
    assert lora.cells[0].against is None and lora.baseline == ffa.baseline == ("lora",)
    assert (ffa.cells[0].rank, lora.cells[0].rank) == ("best", "")


def test_a_recommended_learning_rate_is_said_and_makes_no_column(runs) -> None:
    found = table(runs)
    assert set(found.following) == {"federation.local_lr", "method.trained_factors"}
    assert any(n.startswith("goes with them: federation.local_lr:") for n in notes(found))
    write_run(runs, ["method=lora", "federation.local_lr=0.3"], [0.2, 0.4])
    assert table(runs).columns == ("method", "federation.local_lr")


@pytest.mark.parametrize(
    ("at", "expected", "sent"),
    [
        ("final", 0.61, 200.0),
        ("best-validation", 0.71, 100.0),
        ("round=0", 0.2, 0.0),
        ("round=1", 0.71, 100.0),
        ("bytes=150", 0.71, 100.0),
        ("bytes=0.2kB", 0.61, 200.0),
    ],
)
def test_moments(runs, at, expected, sent) -> None:
    row = table(runs, point=parse(at)).rows[1]
    assert row.cells[0].sample.mean == pytest.approx(expected)
    assert row.uplink_bytes == sent
    assert row.epsilon == (0.0 if at == "round=0" else 6.0)


def test_best_validation_says_that_it_is_optimistic(runs) -> None:
    text = " ".join(notes(table(runs, point=parse("best-validation"))))
    assert "chosen on the rows that score it (holdout), so scores are optimistic" in text
    assert "optimistic" not in " ".join(notes(table(runs)))


def test_loss_is_best_when_small_and_metrics_have_short_names(runs) -> None:
    found = table(runs, metrics=("loss", "accuracy"))
    assert found.metrics == ("eval/loss", "eval/accuracy")
    assert [cell.rank for cell in found.rows[1].cells] == ["best", "best"]
    assert found.rows[1].cells[0].sample.mean == pytest.approx(0.39)
    assert legend(found)["best"] == "best mean, the lowest of loss"


def test_pairs_need_the_same_seed_and_the_same_clients(runs) -> None:
    write_run(runs, ["method=fedsvd", "seed=0", "partition.seed=5"], [0.2, 0.7])
    write_run(runs, ["method=fedsvd", "seed=1", "partition.seed=1"], [0.2, 0.8])
    fedsvd = {row.settings[0]: row for row in table(runs, by=("method",)).rows}["fedsvd"]
    gap = fedsvd.cells[0].against
    assert [pair[0] for pair in gap.pairs] == ["seed 1"]  # seed 0 had other clients
    assert gap.differences.mean == pytest.approx(0.8 - LORA[1])
    assert gap.differences.half_width is None
    assert gap.unpaired == 3


def test_a_baseline_of_ones_own_and_per_row(runs) -> None:
    for method, finals in (("lora", LORA), ("ffa_lora", FFA)):
        write_run(runs, [f"method={method}", "privacy.epsilon_target=1"], [0.1, finals[0] / 2])
    found = table(runs)
    assert found.columns == ("method", "privacy.epsilon_target")
    assert [row.settings for row in found.rows] == [
        ("lora", "1"), ("lora", "6"), ("ffa_lora", "1"), ("ffa_lora", "6"),
    ]  # fmt: skip
    assert found.rows[2].baseline == ("lora", "1")  # every row against LoRA at its own epsilon
    assert found.rows[2].cells[0].against.differences.mean == pytest.approx(0.05)
    assert baseline_name(found) == "LoRA"
    other = table(runs, baseline=(("privacy.epsilon_target", "6"),))
    assert other.rows[2].baseline == ("ffa_lora", "6")
    assert baseline_name(other) == "6"
    for baseline, word in ((("method", "fedsvd"), "none of the rows"), (("seed", "0"), "name one")):
        with pytest.raises(ConfigError, match=word):
            table(runs, baseline=(baseline,))


def test_unfinished_and_repeated_runs_are_named_and_do_not_count(runs) -> None:
    write_run(runs, ["method=lora", "seed=3"], [0.1, 0.9], finished=False)
    write_run(runs, ["method=lora", "seed=0"], [0.1, 0.5], again=True)
    found = table(runs, selectors=["method=lora"])
    assert found.rows[0].cells[0].sample.count == 3
    text = " ".join(notes(found))
    assert "1 run not finished, left out of all means: bbc_news-lora-" in text
    assert "1 run repeated (same signature, same noise), counted once" in text
    with pytest.raises(ConfigError, match="none finished"):
        table(runs, selectors=["seed=3"])


def test_fresh_noise_makes_a_run_of_its_own(tmp_path) -> None:
    for again in (False, True):
        write_run(tmp_path, ["privacy.noise=secure"], [0.1, 0.5], again=again)
    assert table(tmp_path).rows[0].cells[0].sample.count == 2


def test_one_run_has_no_interval_and_says_so(tmp_path) -> None:
    write_run(tmp_path, ["seed=0"], [0.1, 0.5])
    found = table(tmp_path)
    assert found.rows[0].cells[0].sample.half_width is None
    assert "n = 1: a single run has no spread and no interval" in notes(found)


def test_a_column_without_a_value_is_left_out(tmp_path) -> None:
    """No pair shares a seed: the note says so, and a column of dashes would add nothing."""
    for method, seed in (("lora", 0), ("ffa_lora", 1)):
        write_run(tmp_path, [f"method={method}", f"seed={seed}"], [0.1, 0.5])
    found = table(tmp_path, by=("method",))
    assert found.rows[1].baseline == ("lora",)
    shown = grid(found)
    assert shown.head == ("method", "accuracy %", "n", "ε spent", "up B", "s a run")
    assert all("-" not in row and len(row) == len(shown.head) for row in shown.rows)
    assert any("no pair has the same seed" in note for note in shown.notes)


def test_other_tasks_are_refused_unless_laid_side_by_side(runs) -> None:
    write_run(runs, ["task=sst2", "method=lora"], [0.1, 0.99])
    write_run(runs, ["task=sst2", "method=ffa_lora"], [0.1, 0.90])
    with pytest.raises(ConfigError, match=r"tasks differ.*--by.*--anyway"):
        table(runs)
    with pytest.raises(ConfigError, match="tasks differ"):
        table(runs, by=("method",))
    found = table(runs, by=("task", "method"))
    rank = {row.settings: row.cells[0].rank for row in found.rows}
    assert rank[("bbc_news", "ffa_lora")] == rank[("sst2", "lora")] == "best"
    assert found.rows[0].baseline == ("bbc_news", "lora")
    assert table(runs, by=("method",), anyway=True).columns == ("method", "task")


@pytest.mark.parametrize(
    ("overrides", "extra", "word"),
    [
        (["task.version=2"], None, "task versions differ"),
        (["task.eval_on=tune"], None, "evaluation splits differ"),
        ([], {"data": {"evals": {"holdout": {"fingerprint": "other"}}}}, "evaluation rows differ"),
    ],
)
def test_scores_of_other_rows_are_refused(runs, overrides, extra, word) -> None:
    write_run(runs, ["seed=9", *overrides], [0.1, 0.5], extra=extra)
    with pytest.raises(ConfigError, match=word):
        table(runs)
    said = " ".join(notes(table(runs, anyway=True)))
    assert word in said


@pytest.mark.parametrize(
    ("overrides", "keywords", "word"),
    [
        (["privacy.accountant=rdp"], {"statement": {"accountant": "rdp"}}, "accountants differ"),
        ([], {"statement": {"unit": "client"}}, "privacy units differ (client, example)"),
        ([], {"statement": {"relation": "replace one"}}, "neighbouring relations differ"),
        (["head.mode=trained"], {}, "heads differ (frozen, trained)"),
        ([], {"extra": {"ffalora": "0.0.9"}}, "ffalora versions differ"),
        ([], {"extra": {"numerics": 1}}, "arithmetics differ (numerics 1, numerics 2)"),
        ([], {"extra": {"model_fingerprint": "blake2b:cccccccc"}}, "different frozen weights"),
        ([], {"extra": {"data_fingerprints": {"train": "cccc"}}}, "training rows differ"),
    ],
)
def test_what_may_be_compared_by_who_knows_is_flagged(runs, overrides, keywords, word) -> None:
    assert word not in " ".join(notes(table(runs)))
    write_run(runs, ["seed=9", *overrides], [0.1, 0.5], **keywords)
    assert word in " ".join(notes(table(runs)))


def test_a_language_model_has_no_head_to_differ_in(tmp_path) -> None:
    for method in ("lora", "fedsa_lora"):  # one personal head, one frozen, where there is any
        typed = [f"method={method}", "task=dolly15k", "model=smollm2_135m", "privacy=none"]
        path = write_run(tmp_path, typed, [0.1, 0.5])
        mode = (path / "config.yaml").read_text().split("head:\n  mode: ")[1].split("\n")[0]
        assert mode == {"lora": "frozen", "fedsa_lora": "personal"}[method]
    found = table(tmp_path, metrics=("accuracy",))
    assert found.columns == ("method",)
    assert "head" not in " ".join(notes(found))


def test_rows_that_would_mix_settings_are_split(runs) -> None:
    for seed in (0, 1):
        write_run(runs, ["method=lora", "adapter.alpha=4", f"seed={seed}"], [0.1, 0.5 + seed / 10])
    found = table(runs, by=("method",))
    assert found.columns == ("method", "adapter.alpha")
    assert {row.settings: len(row.runs) for row in found.rows} == {
        ("ffa_lora", "8"): 3, ("lora", "4"): 2, ("lora", "8"): 3,
    }  # fmt: skip
    assert "rows are also split by adapter.alpha" in " ".join(notes(found))
    apart = table(runs, by=("method", "adapter.alpha"))
    assert apart.rows == found.rows and "split" not in " ".join(notes(apart))


def test_other_seeds_are_averaged_over_and_said(runs) -> None:
    write_run(runs, ["method=lora", "seed=3", "partition.seed=7"], [0.1, 0.5])
    found = table(runs, by=("method",))
    assert found.columns == ("method",) and [len(row.runs) for row in found.rows] == [4, 3]
    assert "average runs with different partition.seed; add partition.seed to --by" in " ".join(
        notes(found)
    )


def test_what_was_set_by_hand_is_a_column_and_no_bar_to_the_baseline(tmp_path) -> None:
    """A rate tuned for each method differs with it, but is nobody's recommendation."""
    for method, rate, mode in (("lora", 0.05, "trained"), ("ffa_lora", 0.5, "frozen")):
        for seed in (0, 1):
            typed = [f"method={method}", f"federation.local_lr={rate}", f"head.mode={mode}"]
            write_run(tmp_path, [*typed, f"seed={seed}"], [0.1, rate + seed / 10])
    found = table(tmp_path)
    assert found.columns == ("method", "federation.local_lr", "head.mode")
    assert not {"federation.local_lr", "head.mode"} & set(found.following)
    lora, ffa = found.rows
    assert ffa.baseline == lora.settings == ("lora", "0.05", "trained")
    assert ffa.cells[0].against.differences.mean == pytest.approx(0.45)
    hidden = " ".join(notes(table(tmp_path, by=("method",))))
    assert "goes with them: federation.local_lr: 0.05 (LoRA), 0.5 (FFA-LoRA)" in hidden
    with pytest.raises(ConfigError, match="none of the rows"):
        table(tmp_path, baseline=(("federation.local_lr", "7"),))


def test_runs_judged_by_different_metrics_need_one_named(runs) -> None:
    path = write_run(runs, ["method=fedsa_lora"], [0.1, 0.5], more={"eval/own": 0.7})
    summary = path / "summary.json"
    summary.write_text(summary.read_text().replace('"eval/accuracy",', '"eval/own",', 1))
    with pytest.raises(ConfigError, match="judged by different ones"):
        table(runs)
    assert len(table(runs, metrics=("accuracy",)).rows) == 3


def test_epsilon_comes_with_the_assumptions_of_each_runs_sentence(tmp_path) -> None:
    write_run(tmp_path, ["seed=0"], [0.1, 0.5])
    shared = (
        "epsilon 6.00 (a row on up to 2 clients, their epsilons added; 3.00 is the largest of 3 "
        "clients; unit example, add/remove one, delta 2e-5, Poisson sampling, PLD accountant)"
    )
    write_run(tmp_path, ["seed=1"], [0.1, 0.5], statement={"sentence": shared})
    text = " ".join(notes(table(tmp_path)))
    for words in (
        "epsilon: largest of the row's runs; a row on up to 2 clients, their epsilons added; unit",
        "delta 2e-5, Poisson sampling, PLD accountant; or unit example, add/remove one, delta 1e-5",
    ):
        assert words in text
    assert "3.00" not in text


@pytest.mark.parametrize("text", ["best", "round=x", "bytes=lots", "round", "bytes=3XB"])
def test_a_moment_that_cannot_be_read(text) -> None:
    with pytest.raises(ConfigError, match="--at"):
        parse(text)


def test_one_signature_on_other_inputs_is_no_repetition(tmp_path):
    """What was recorded decides; no file of the inputs is there to be read."""
    known = {"identity": {"data": {"clients": "split 0"}, "model": "m", "tokenizer": "t"}}
    for number, change in enumerate(({}, {}, {"model_fingerprint": "blake2b:cccccccc"})):
        write_run(
            tmp_path, ["method=lora"], [0.5, 0.6], again=number > 0, extra={**known, **change}
        )
    found = table(tmp_path)
    first, second, third = (run.path.name for run in select_runs(tmp_path))
    assert [run.path.name for run in found.repeated] == [second]
    assert [run.path.name for run in found.runs] == [first, third]
    said = notes(found)
    assert f"1 run repeated (same signature, same noise), counted once: {second}" in said
    (line,) = (text for text in said if "different inputs" in text)
    assert line.startswith(f"{first}, {third}: one configuration on different inputs (weights), so")
    assert not any("not all inputs were recorded" in text for text in said)


@pytest.mark.parametrize("part", ["tokenizer", "model", "clients", "train"])
def test_every_recorded_input_tells_runs_apart(part, tmp_path):
    for number in range(2):
        prints = dict.fromkeys(("tokenizer", "model", "clients", "train"), "x")
        prints[part] += str(number)
        extra = {
            "data_fingerprints": {"train": prints["train"]},
            "identity": {"data": {"clients": prints["clients"]}}
            | {key: prints[key] for key in ("tokenizer", "model")},
        }
        write_run(tmp_path, ["method=lora"], [0.5, 0.6], again=number > 0, extra=extra)
    assert table(tmp_path).repeated == ()


def test_repetitions_of_runs_that_recorded_less_are_said_to_be_by_what_they_did(tmp_path):
    for number in range(2):
        write_run(tmp_path, ["method=lora"], [0.5, 0.6], again=number > 0)
    found = table(tmp_path)
    (second,) = found.repeated
    assert f"{second.path.name}: not all inputs were recorded then" in " ".join(notes(found))
