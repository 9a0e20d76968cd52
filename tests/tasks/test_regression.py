"""Numbers as targets: what is refused, and the scores against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.tasks.regression import TASK
from ffalora_cli.tasks.targets import Scored, Targets

CONFIG = plan(["task=vader_domains", "privacy=none", "partition=iid"])[0].config.task


def score(name, true, said):
    targets = Targets(np.array(true, np.float32))
    return TASK.score(
        CONFIG, name, Scored(targets, np.array(said, np.float32), np.zeros(len(true)))
    )


@pytest.mark.parametrize("levels", [5, 1000])  # with many ties, and with few
def test_scores_are_those_of_scipy(levels):
    generator = np.random.default_rng(levels)
    true = generator.integers(0, levels, 300)
    said = true + generator.integers(0, 2 * levels, 300)
    assert score("pearson", true, said) == pytest.approx(stats.pearsonr(true, said)[0])
    assert score("spearman", true, said) == pytest.approx(stats.spearmanr(true, said)[0])
    assert score("mse", true, said) == pytest.approx(((true - said) ** 2).mean())


def test_a_constant_answer_is_at_chance():
    true = [0.5, 1.0, 3.0]
    chance = TASK.chance(Targets(np.array(true, np.float32)))
    mean = [np.mean(true)] * 3
    assert chance == {name: pytest.approx(score(name, true, mean)) for name in TASK.metrics}
    assert chance["pearson"] == chance["spearman"] == 0


@pytest.mark.parametrize("cell", [4.5, -4.5, float("nan"), "good", None, True and [1.0]])
def test_what_is_no_number_of_the_range_is_refused_with_its_line(cell):
    table = {"score": [1, "-2.5", cell]}
    with pytest.raises(
        ConfigError, match=r"^line 4: score is .* from -4 to 4 \(task.target_range\)"
    ):
        TASK.targets(CONFIG, table, lambda row: f"line {row + 2}", "train")
    fine = TASK.targets(CONFIG, {"score": table["score"][:2]}, str, "train")
    assert fine.values.tolist() == [1.0, -2.5] and fine.values.dtype == np.float32


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task.classes=[a,b]"], "task.classes"),
        (["task.target_range=[1]"], "task.target_range"),
        (["task.target_range=[4,-4]"], "task.target_range"),
        (["task.metrics=[accuracy]"], "pearson"),
        (["partition=severe"], "deals rows by label"),
        (["task.loss_reduction=sum"], "task.loss_reduction is of another task.kind"),
    ],
)
def test_configurations_that_cannot_be(words, said):
    with pytest.raises(ConfigError, match=said):
        plan(["task=vader_domains", "privacy=none", "partition=iid", *words])
    with pytest.raises(ConfigError, match=r"task\.target_range is of another task\.kind"):
        plan(["task=sst2", "task.target_range=[0,1]"])
