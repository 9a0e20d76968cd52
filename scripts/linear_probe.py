"""What a linear model of the frozen features scores: the least that training should be above.

    python -m scripts.linear_probe experiment=cifar10 task=cifar10_subset paths.data=FOLDER

Takes the overrides of a run. The features are what the model's head reads, of all training rows
together; scikit-learn's logistic regression, its strength chosen on a tenth of them. Scored on the
rows that the run is scored on.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch

from ffalora_cli.compose.jobs import plan
from ffalora_cli.data.dataset import Ready
from ffalora_cli.experiment.population import load
from ffalora_cli.models.backbone import load_backbone
from ffalora_cli.models.families.frozen import freeze_linears
from ffalora_cli.models.processor import load_processor

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse, as scikit-learn's C
BATCH = 32


def main(overrides: list[str]) -> None:
    """Print the accuracy on every split that the run would be scored on."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (job,) = plan(overrides)
    config = job.config
    data, _ = load(config, load_processor(config.model, config.task))
    backbone = load_backbone(config.model, config.head, config.task)
    freeze_linears(backbone.model)
    (head,) = backbone.task.head(backbone.model)
    x, y = features(backbone.model, head, data.train), data.train.targets.values
    order = np.random.default_rng(0).permutation(len(y))
    held, kept = order[: len(y) // 10], order[len(y) // 10 :]

    def fitted(strength: float, rows: np.ndarray) -> Any:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))
        return model.fit(x[rows], y[rows])

    best = max(STRENGTHS, key=lambda c: fitted(c, kept).score(x[held], y[held]))
    model = fitted(best, order)
    for name, split in data.evals.items():
        score = model.score(features(backbone.model, head, split), split.targets.values)
        print(f"{name}: accuracy {100 * score:.1f} % of {len(split)} rows, C {best:g}")


def features(model: Any, head: str, rows: Ready) -> np.ndarray:
    """What the head reads of every row, fp32 ``[rows, width]``."""
    found: list[torch.Tensor] = []
    seen = model.get_submodule(head).register_forward_pre_hook(lambda _, x: found.append(x[0]))
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            model(**rows.inputs(np.arange(start, min(start + BATCH, len(rows)))))
    seen.remove()
    return torch.cat(found).numpy()


if __name__ == "__main__":
    main(sys.argv[1:])
