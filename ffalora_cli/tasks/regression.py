"""One number for a text or a pair of texts, by squared error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ffalora_cli.config.errors import ConfigError, brief, require
from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.tasks.base import Metric, Place, Task
from ffalora_cli.tasks.targets import Scored, Targets

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


def _variance(targets: Targets) -> float:
    """The mean squared error of the best constant answer."""
    return float(targets.values.var())


class Regression(Task):
    """A sequence classifier with one output, as transformers has it; no classes, no strata."""

    auto_class = "AutoModelForSequenceClassification"
    pipeline = "text-classification"
    keys = ("target_range",)
    metrics: ClassVar[Mapping[str, Metric]] = {
        "pearson": Metric("number", chance=lambda targets: 0.0, hub="pearsonr"),
        "spearman": Metric("number", chance=lambda targets: 0.0, hub="spearmanr"),
        "mse": Metric("number", False, _variance, hub="mse"),
    }
    client_metric = "mse"

    def outputs(self, config: TaskConfig) -> int:
        """One, the answer."""
        return 1

    def targets(
        self, config: TaskConfig, table: Mapping[str, Sequence[Any]], place: Place, split: str
    ) -> Targets:
        """A number a row, inside ``target_range``."""
        import numpy as np

        name, values = config.label_column, []
        low, high = config.target_range or (-math.inf, math.inf)
        for row, cell in enumerate(table[name or ""]):
            value = _number(cell)
            if value is None or not low <= value <= high:
                wanted = f"a number from {low:g} to {high:g} (task.target_range)"
                raise ConfigError(
                    f"{place(row)}: {name} is {brief(cell)} in split {split!r}; give "
                    f"{wanted if config.target_range else 'a number'}, or remove such rows"
                )
            values.append(value)
        return Targets(np.array(values, np.float32))

    def elementwise(self, outputs: Tensor, values: Tensor) -> Tensor:
        """Squared error."""
        return (outputs[:, 0] - values).square()

    def answers(self, outputs: Tensor) -> Tensor:
        """The output itself."""
        return outputs[:, 0]

    def score(self, config: TaskConfig, name: str, scored: Scored) -> float:
        """A correlation with the targets, or the mean squared error."""
        said, true = (x.astype("float64") for x in (scored.answers, scored.targets.values))
        if name == "mse":
            return float(((said - true) ** 2).mean())
        return pearson(ranks(said), ranks(true)) if name == "spearman" else pearson(said, true)

    def settings(self, config: TaskConfig) -> dict[str, Any]:
        """The loss that transformers would take."""
        return {"problem_type": "regression"}

    def check(self, config: TaskConfig) -> None:
        """Numbers have a column, no classes, and a range that is one."""
        require("task.classes", list(config.classes), not config.classes, "[]: numbers have none")
        require("task.label_column", config.label_column, config.label_column is not None, "a name")
        known = config.target_range
        fits = not known or (len(known) == 2 and known[0] < known[1])
        require("task.target_range", list(known), fits, "[lowest, highest], or [] for any number")
        super().check(config)


def _number(cell: Any) -> float | None:
    """What a cell says; None where it is no finite number."""
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def pearson(said: np.ndarray, true: np.ndarray) -> float:
    """Pearson's correlation of two rows float64 [n]; 0 where one of them is constant."""
    import numpy as np

    said, true = said - said.mean(), true - true.mean()
    spread = float(np.linalg.norm(said) * np.linalg.norm(true))
    return float(said @ true) / spread if spread > 0 else 0.0


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, float64 [n]; equal values share the mean of theirs."""
    import numpy as np

    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    means: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[which]
    return means


TASK = Regression()
