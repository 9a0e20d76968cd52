"""Maps labels to class indices: class names, numbers, and numbers written as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ffalora_cli.config.errors import ConfigError, brief, listed, nearest
from ffalora_cli.config.schema import TaskConfig

WITHHELD = -1
WHOLE = re.compile(r"([+-]?\d{1,20})(?:\.0*)?")  # as floats are written, too
_TRUTH = {"true": 1, "false": 0}
_SHOWN = 4  # numbers written out before a range is


def both_ways(classes: Sequence[str]) -> dict[str, Any]:
    """``id2label`` and ``label2id`` of a model's configuration."""
    numbered = dict(enumerate(classes))
    return {"id2label": numbered, "label2id": {name: i for i, name in numbered.items()}}


def class_indices(
    task: TaskConfig, values: Sequence[Any], place: Callable[[int], str], split: str
) -> np.ndarray:
    """Class indices, int64 [n].

    Args:
        task: classes, in label order.
        values: a label a row; none is missing.
        place: where a row is, for people.
        split: its name, for people.

    Raises:
        ConfigError: a label is no class name or number, or a number that no class has.
    """
    for row, value in enumerate(values):
        if not isinstance(value, str | int | float):
            raise ConfigError(
                f"{place(row)}: {task.label_column} is {type(value).__name__}; "
                "give a class number or name"
            )
    named = {name: index for index, name in enumerate(task.classes)}
    numbers = {value: _number(named, value) for value in set(values)}
    known = range(len(task.classes))
    wrong = [row for row, value in enumerate(values) if numbers[value] not in known]
    if wrong:
        nameless = [row for row in wrong if numbers[values[row]] is None]
        if nameless:
            raise _unknown(task, values[nameless[0]], place(nameless[0]))
        found = sorted({number for number in numbers.values() if number is not None})
        if found == [WITHHELD]:
            raise _withheld(task, len(values), split)
        raise _misnumbered(task, found, split, place(wrong[0]))
    return np.fromiter((numbers[value] for value in values), np.int64, len(values))


def _number(named: Mapping[str, int], value: str | float) -> int | None:
    """The number a label stands for, a class's or not; None when it is none.

    A class may be called by a number that is not its own (1 to 5, or -1): names go first, however
    a file writes the number.
    """
    if isinstance(value, str):
        if value in named:
            return named[value]
        whole = WHOLE.fullmatch(value.strip())
        number = int(whole[1]) if whole else _TRUTH.get(value.strip().lower())
    else:
        number = int(value) if isinstance(value, int) or value.is_integer() else None
    return named.get(str(number), number)


def _unknown(task: TaskConfig, value: str | float, where: str) -> ConfigError:
    close = nearest(value, task.classes) if isinstance(value, str) else None
    hint = f"nearest is {close!r}" if close else listed(task.classes)
    return ConfigError(
        f"{where}: {task.label_column}={brief(value)} is not one of the {len(task.classes)} "
        f"classes of task {task.name} ({hint}); correct the row or task.classes"
    )


def _withheld(task: TaskConfig, count: int, split: str) -> ConfigError:
    remedies = {"train": "give labels to learn from", "test": "use task.eval_on=eval"}
    remedy = remedies.get(split, "use task.eval_split=holdout")
    return ConfigError(
        f"task {task.name}: {count} of {count} labels of split {split!r} are withheld (-1), so "
        f"there is nothing to score or learn from; {remedy}"
    )


def _misnumbered(task: TaskConfig, found: Sequence[int], split: str, where: str) -> ConfigError:
    shown = [brief(number) for number in found]
    if len(shown) > _SHOWN:
        labels = f"{shown[0]} to {shown[-1]}"
    else:
        labels = " and ".join([", ".join(shown[:-1]), shown[-1]] if shown[1:] else shown)
    withheld = found[0] == WITHHELD and 0 in found
    also = "; a row whose label is withheld (-1) has to go" if withheld else ""
    many = "s" if shown[1:] else ""
    return ConfigError(
        f"{where}: split {split!r} has the label{many} {labels}, task {task.name} "
        f"numbers its {len(task.classes)} classes from 0 to {len(task.classes) - 1}{also}; "
        f"renumber them, or write class names ({listed(task.classes)})"
    )
