"""Kinds of task by name: a file in this folder or an entry point of ``ffalora.tasks``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ffalora_cli import metric_keys
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.plugins import Folder
from ffalora_cli.config.schema import Config, TaskConfig
from ffalora_cli.tasks.base import LOSS, Metric, Task, check_strata

if TYPE_CHECKING:
    import numpy as np

    from ffalora_cli.tasks.targets import Targets

KINDS = Folder(
    "task.kind",
    "ffalora_cli.tasks",
    "ffalora.tasks",
    "TASK",
    "Task",
    frozenset(
        {
            "base",
            "classification",
            "generated_answers",
            "labels",
            "metrics",
            "registry",
            "targets",
        }
    ),
)


def get(kind: str) -> Task:
    """The kind of this name; what it declares is readable without torch.

    Raises:
        ConfigError: there is none.
    """
    task: Task = KINDS.get(kind)
    return task


def check(config: Config) -> None:
    """Refuse a task that its kind cannot be, and a partition that it cannot be dealt by.

    Raises:
        ConfigError: the first rule that does not hold.
    """
    task = get(config.task.kind)
    task.check(config.task)
    for name, said in {**task.metrics, **task.generated}.items():
        known = metric(name)
        alike = known and (known.unit, known.higher_is_better) == (said.unit, said.higher_is_better)
        if not alike or known is LOSS:
            raise ConfigError(
                f"task.kind={config.task.kind}: its metric {name} means something else already; "
                "give it another name there"
            )
    check_strata(task, config.task, config.partition.name)
    if not task.headed and config.head.mode not in ("frozen", config.method.head):
        raise ConfigError(
            f"head.mode={config.head.mode}: task.kind={config.task.kind} has no head, its "
            "vocabulary is of the frozen base; remove it"
        )


def strata(task: TaskConfig, targets: Targets) -> tuple[np.ndarray, tuple[str, ...]]:
    """Stratum of each row, int64 [rows], and all names; one of all rows where a kind has none."""
    kind = get(task.kind)
    found = kind.strata(targets)
    if found is None:
        import numpy as np

        return np.zeros(len(targets), np.int64), ("all rows",)
    return found, kind.strata_names(task)


def metric(key: str) -> Metric | None:
    """What a key of an evaluation (``eval/…``) or of a client's line declares; None: no score.

    One name means one thing in all kinds, so a table may hold runs of several. A key may say more
    than the metric: whose model was scored (``personalized_``, ``client_``), on which labels
    (``_own_labels``), that it is the least of the clients (``_min``), or an end of its interval
    (``_low``, ``_high``).
    """
    name = key.rsplit("/", 1)[-1]
    for prefix in ("personalized_", "client_"):
        name = name.removeprefix(prefix)
    for suffix in ("_own_labels", "_min", "_low", "_high"):
        name = name.removesuffix(suffix)
    if name == "loss":
        return LOSS
    for kind in sorted(KINDS.names(), key=lambda kind: kind not in KINDS.own()):  # ours first
        try:
            task = get(kind)
            found = task.metrics.get(name) or task.generated.get(name)
        except ConfigError:  # a package that cannot be loaded: its metrics are unknown, no more
            continue
        if found is not None:
            return found
    return None


def higher_is_better(key: str) -> bool:
    """As a task declares of a score, else as the key's meaning has it."""
    declared = metric(key)
    if declared is not None:
        return declared.higher_is_better
    meaning = metric_keys.described(key)
    return meaning is None or meaning.better != "lower"


def is_percent(key: str) -> bool:
    """Whether a key holds a score that people read in percent."""
    declared = metric(key)
    return declared is not None and declared.unit == "percent"
