"""One class for every example, whatever it is: targets, loss, scores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ffalora_cli.config.errors import ConfigError, brief, require
from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.tasks.base import ClassScores, Metric, Place
from ffalora_cli.tasks.targets import Scored, Targets

if TYPE_CHECKING:
    import numpy as np


def _commonest(targets: Targets) -> float:
    """Share of the most frequent class, what a constant answer is right in."""
    import numpy as np

    return float(np.bincount(targets.values).max() / len(targets))


class Classification(ClassScores):
    """Cross-entropy over classes; its kinds differ in what the model reads."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy": Metric("percent", chance=_commonest, hub="accuracy"),
        "f1": Metric("percent", hub="f1"),
        "mcc": Metric("number", chance=lambda targets: 0.0, hub="matthews_correlation"),
    }
    client_metric = "accuracy"

    def outputs(self, config: TaskConfig) -> int:
        """One a class."""
        return len(config.classes)

    def targets(
        self, config: TaskConfig, table: Mapping[str, Sequence[Any]], place: Place, split: str
    ) -> Targets:
        """A class index a row."""
        from ffalora_cli.tasks.labels import class_indices

        assert config.label_column is not None  # checked
        return Targets(class_indices(config, table[config.label_column], place, split))

    def strata_names(self, config: TaskConfig) -> tuple[str, ...]:
        """The classes."""
        return config.classes

    def strata(self, targets: Targets) -> np.ndarray | None:
        """The class of each row, int64 [rows]."""
        import numpy as np

        return np.asarray(targets.values)

    def score(self, config: TaskConfig, name: str, scored: Scored) -> float:
        """A score of the confusion matrix."""
        from ffalora_cli.tasks import metrics

        table = metrics.confusion(scored.targets.values, scored.answers, len(config.classes))
        return metrics.SCORES[name](table)

    def uninformed_loss(self, config: TaskConfig) -> float:
        """Of equal chances for all classes, nats."""
        return math.log(len(config.classes))

    def settings(self, config: TaskConfig) -> dict[str, Any]:
        """The classes, both ways, and the loss that transformers would take."""
        from ffalora_cli.tasks.labels import both_ways

        return {**both_ways(config.classes), "problem_type": "single_label_classification"}

    def check(self, config: TaskConfig) -> None:
        """Two classes or more, each once, and a column of them."""
        classes = config.classes
        if config.label_column is None:
            raise ConfigError("task.label_column=null: name the column of classes")
        require("task.classes", list(classes), len(classes) >= 2, "two classes or more")
        twice = next((name for name, n in Counter(classes).items() if n > 1), None)
        if twice is not None:
            raise ConfigError(
                f"task.classes names {brief(twice)} twice; give every class its own name"
            )
        super().check(config)
