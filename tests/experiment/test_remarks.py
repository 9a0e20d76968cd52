"""What is said of a run's data before it trains: labels that do not vary, empty texts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ffalora_cli.cli.main import main
from ffalora_cli.compose.chosen import as_experiment
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.experiment.remarks import of_clip, of_data, of_spread_units
from ffalora_cli.tasks.targets import Targets

TASK = plan([])[0].config.task


def data(train, evaluation, empty=0):
    rows = {"train": SimpleNamespace(targets=Targets(np.array(train)))}
    evals = {"holdout": SimpleNamespace(targets=Targets(np.array(evaluation)))}
    facts = {"train": {"empty_texts": empty, "rows_too_long": 0}}
    return SimpleNamespace(train=rows["train"], evals=evals, facts=facts)


def test_labels_that_do_not_vary():
    assert of_data(TASK, data([0, 1, 1], [1, 0])) == ()
    with pytest.raises(
        ConfigError, match=r"every row of train is 'entertainment'.*nothing to learn"
    ):
        of_data(TASK, data([1, 1], [0, 1]))
    (said,) = of_data(TASK, data([0, 1], [2, 2]))
    assert said.startswith(f"every row of holdout is {TASK.classes[2]!r}")


def test_a_run_with_one_class_in_train_writes_nothing(tmp_path, capsys):
    for split in ("train", "validation"):
        file = tmp_path / "data" / "mine" / f"{split}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("sentence,label\n" + "".join(f"a film {i},1\n" for i in range(40)))
    runs = tmp_path / "runs"
    words = ["task=sst2", "task.name=mine", f"paths.data={tmp_path / 'data'}", f"paths.runs={runs}"]
    assert main(["run", "debug=tiny", "partition=iid", *words]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "every row of train is 'positive' (task.label_column=label)" in said
    assert not runs.exists()


def test_empty_texts_of_pairs_are_counted():
    assert of_data(TASK, data([0, 1], [0, 1], empty=3)) == (
        "3 texts of the training pairs are empty",
    )


def test_people_on_several_clients():
    column = plan(["privacy.unit=column", "task.unit_column=who"])[0].config
    assert of_spread_units(column, spread=False) == ()
    (said,) = of_spread_units(column, spread=True)
    assert "partition.keep_together=who" in said
    assert of_spread_units(plan([])[0].config, spread=True) == ()


def test_a_recommended_clip_is_for_all_layers_and_for_means():
    words = ["task=conll2003", "partition=iid"]
    for more, said in (
        ([], None),
        (["adapter.layers=2"], "adapter.layers"),
        (["adapter.layers=2", "task.loss_reduction=sum"], "loss_reduction=sum and adapter.layers"),
        (["adapter.layers=2", "privacy.max_grad_norm=0.1"], None),
        (["adapter.layers=2", "privacy.clip_quantile=0.5"], None),
        (["adapter.layers=2", "privacy=none"], None),
    ):
        found = of_clip(plan([*words, *more])[0].config)
        assert len(found) == (said is not None)
        assert all(said in line and "max_grad_norm=0.5 is recommended" in line for line in found)


@pytest.mark.parametrize(
    ("words", "guess"),
    [
        ("", None),
        ("privacy=none", None),
        ("method=lora", "0.4 is a guess: nobody tuned it for model=minilm (text_classification, "),
        ("method=lora", "sgd, two factors, private)"),
        ("method=lora federation.local_lr=2.5", None),
        ("method=lora federation.local_lr=0.4", None),  # the model's own number, but typed
        ("federation.local_optimizer=adamw", "0.002 is a guess"),
        ("model=auto model.source=a/b", "model=auto"),
        ("model=roberta_large", None),
        ("model=roberta_large privacy=none", "not private"),
    ],
)
def test_a_rate_that_nobody_tuned_is_said_unless_it_was_typed(words, guess):
    said = [n for n in plan(words.split())[0].notes if "is a guess" in n]
    assert len(said) == (guess is not None) and (guess or "") in "".join(said)


def test_a_rate_that_an_experiment_sets_is_no_guess(tmp_path, monkeypatch):
    """As those that ``ffalora tune`` writes; the same experiment without a rate has one."""
    words = {"tuned": ["method=lora", "federation.local_lr=0.4"], "bare": ["method=lora"]}
    texts = {name: as_experiment(typed, "of a test") for name, typed in words.items()}
    monkeypatch.chdir(tmp_path)
    Path("configs/experiment").mkdir(parents=True)
    for name, text in texts.items():
        Path(f"configs/experiment/{name}.yaml").write_text(text)
    for name in texts:
        own, *notes = plan([f"experiment={name}"])[0].notes
        assert own.startswith("own options") and ("is a guess" in "".join(notes)) == (
            name == "bare"
        )


def test_it_is_said_first_and_in_the_plan(tmp_path, capsys):
    words = ["debug=tiny", "federation.local_optimizer=adamw", f"paths.runs={tmp_path}"]
    assert main(["run", *words]) == 0
    assert "is a guess" in capsys.readouterr().out.splitlines()[0]
    assert main(["plan", "--no-measure", *words]) == 0
    assert "is a guess" in capsys.readouterr().out
