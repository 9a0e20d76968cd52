"""Says what a person should hear of a run's data before it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ffalora_cli.config.errors import ConfigError, counted
from ffalora_cli.config.schema import Config, TaskConfig
from ffalora_cli.tasks import registry

if TYPE_CHECKING:
    from ffalora_cli.data.dataset import TaskData


def of_data(task: TaskConfig, data: TaskData) -> tuple[str, ...]:
    """Empty texts of pairs, and splits that cannot be scored, as all their rows have one label.

    Raises:
        ConfigError: where the training rows have one label: there is nothing to learn.
    """
    notes, facts = [], data.facts["train"]
    if left_out := facts["rows_too_long"]:
        notes.append(
            f"{counted(left_out, 'row')} of train left out: longer than "
            f"task.max_length={task.max_length}"
        )
    if empty := facts["empty_texts"]:
        few = "text of the training pairs is" if empty == 1 else "texts of the training pairs are"
        notes.append(f"{empty} {few} empty")
    for name, rows in {"train": data.train, **data.evals}.items():
        strata, names = registry.strata(task, rows.targets)
        found = np.unique(strata)
        if len(names) == 1 or len(found) != 1:
            continue
        said = f"every row of {name} is {names[int(found[0])]!r} (task.label_column"
        said += f"={task.label_column})"
        if name == "train":
            raise ConfigError(f"{said}, so there is nothing to learn; name the column of labels")
        notes.append(f"{said}; a model that always says so is right")
    return tuple(notes)


def of_precision(config: Config, device: str) -> tuple[str, ...]:
    """That bf16 would be faster there; which precision a run has is a person's to say."""
    from ffalora_cli.models.precision import matrix_units

    units = matrix_units(device)
    if not units or config.engine.precision != "fp32":
        return ()
    return (
        f"engine.precision=bf16 would be several times faster on this machine ({units}); it rounds "
        "each example's gradient by about 3 %",
    )


def of_spread_units(config: Config, spread: bool) -> tuple[str, ...]:
    """Persons on several clients (``spread``) although the split could keep them together."""
    if config.privacy.unit != "column" or config.partition.name == "natural" or not spread:
        return ()
    column = config.task.unit_column
    return (
        f"some values of task.unit_column={column} lie on several clients, which all release "
        f"something of them; partition.keep_together={column} keeps each on one",
    )


def of_clip(config: Config) -> tuple[str, ...]:
    """A recommended clip is for all layers, and for the mean of a row's losses."""
    privacy, layers = config.privacy, config.adapter.layers
    recommended = config.model.max_grad_norm.get(config.adapter.targets)
    follows = privacy.inside_clients and privacy.max_grad_norm == recommended
    others = ["task.loss_reduction=sum"] * (config.task.loss_reduction == "sum")
    others += ["adapter.layers"] * (layers is not None)
    if not follows or privacy.clip_quantile is not None or not others:
        return ()
    return (
        f"privacy.max_grad_norm={recommended:g} is recommended for all layers and the mean of a "
        f"row's tokens, and norms are others with {' and '.join(others)}; give one that suits, or "
        "privacy.clip_quantile=0.5, which follows them",
    )
