"""Says which splits of a task a run looks at, and refuses those that cannot be had."""

from __future__ import annotations

from ffalora_cli.config.errors import ConfigError, choose, require
from ffalora_cli.config.schema import TaskConfig

HOLDOUT = "holdout"  # cut from train


def evaluated_splits(task: TaskConfig) -> tuple[str, ...]:
    """The splits this run looks at, headline first.

    Raises:
        ConfigError: one that the task does not have, or a hold-out that is none.
    """
    share = task.holdout_fraction
    require("task.holdout_fraction", share, 0 < share < 1, "between 0 and 1; 0.1 is usual")
    named = [("eval_split", task.eval_split), ("tune_split", task.tune_split)]
    for key, split in (*named, *(("extra_eval_splits", name) for name in task.extra_eval_splits)):
        if split not in (*task.splits, HOLDOUT):
            raise choose(f"task.{key}", split, (*task.splits, HOLDOUT))
    if task.eval_on == "test" and "test" not in task.splits:
        raise ConfigError(f"task.eval_on=test: {task.name} has no test split; use eval or tune")
    if task.eval_on == "tune" and task.tune_split == task.eval_split != HOLDOUT:
        raise ConfigError(
            f"task.tune_split={task.tune_split} is the evaluation split; "
            "set task.tune_split=holdout"
        )
    if task.eval_on == "eval":
        return (task.eval_split, *task.extra_eval_splits)
    return (task.tune_split if task.eval_on == "tune" else "test",)
