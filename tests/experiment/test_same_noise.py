"""One row removed and the same command again: the difference of the releases is noise, not the row.

With noise keyed by seed and configuration alone both runs drew the same, and what was left of the
difference was the removed row's clipped gradient.
"""

from __future__ import annotations

import math

import pytest

from ffalora_cli.cli.main import main
from ffalora_cli.records.reading import find_runs
from tests.experiment.test_inputs import TASK, rows
from tests.tiny import save_tiny_bert

CLIP, NOISE = 0.01, 4.0
PRIVATE = [
    "privacy=example", "privacy.epsilon_target=null", f"privacy.noise_multiplier={NOISE}",
    "privacy.delta=1e-5", f"privacy.max_grad_norm={CLIP}", "federation.num_clients=1",
    "federation.local_lr=1", "federation.local_batch_size=24", "task.max_length=32",
    "task.eval_split=validation", "adapter.rank=2",
]  # fmt: skip
_KEYS = {word.partition("=")[0] for word in PRIVATE}
WORDS = [*(word for word in TASK if word.partition("=")[0] not in _KEYS | {"privacy"}), *PRIVATE]


def test_two_data_sets_share_no_noise(tmp_path, monkeypatch):
    import torch
    from safetensors.torch import load_file

    monkeypatch.chdir(tmp_path)
    save_tiny_bert(tmp_path / "model")
    held = sorted(rows().splitlines()[1:])
    sums = []
    for name, count in (("all", 24), ("one_less", 23)):
        folder = tmp_path / name / "mine"
        folder.mkdir(parents=True)
        for split, lines in (("train", held[:count]), ("validation", held[:4])):
            (folder / f"{split}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
        where = [f"paths.data={name}", f"paths.runs={name}/runs", "model.source=./model"]
        assert main(["run", *WORDS, *where, "--quiet"]) == 0
        (run,) = find_runs(tmp_path / name / "runs")
        b = {k: v for k, v in load_file(run / "adapter.safetensors").items() if "lora_b" in k}
        update = torch.cat([b[k].flatten() for k in sorted(b)]).double()
        sums.append(update * count / CLIP)  # B starts at zero and the learning rate is one
    difference = (sums[0] - sums[1]).norm().item()
    independent = NOISE * math.sqrt(2 * len(sums[0]))
    assert difference == pytest.approx(independent, rel=0.4)
    assert difference > 5  # the row's gradient has norm one
