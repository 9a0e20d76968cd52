"""Describes rows of one's own as a task: what a run would read, and what to know of it first."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ffalora_cli.config.build import check_value
from ffalora_cli.config.errors import ConfigError, brief, listed
from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.config.splits import HOLDOUT
from ffalora_cli.data.columns import Column, columns_of, spoken
from ffalora_cli.data.groups import normalised
from ffalora_cli.data.guess import Guess, guess
from ffalora_cli.data.load import load_rows
from ffalora_cli.data.sources import hub
from ffalora_cli.data.sources.given import Given
from ffalora_cli.data.sources.readers import Table
from ffalora_cli.data.sources.source import locate
from ffalora_cli.hub.access import Note, silent
from ffalora_cli.tasks import registry

LENGTHS = (64, 128, 256, 512)
_TOKENS = 1.4  # of an English word, about
_METRICS = {
    "regression": ("pearson", "spearman", "mse"),
    "causal_lm": ("perplexity", "nll", "token_accuracy"),
}


@dataclass(frozen=True)
class SplitFacts:
    """What stands in the rows of a split.

    Attributes:
        rows: how many.
        labels: class -> rows of it; empty where there are no classes.
        words: of each row, all its texts together; int64 [rows].
        empty: text column -> rows in which it is empty.
        repeated: rows whose text stood in an earlier one.
        contradicting: places of rows of one text and different labels, two of each text.
    """

    rows: int
    labels: Mapping[str, int]
    words: np.ndarray
    empty: Mapping[str, int]
    repeated: int
    contradicting: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Description:
    """A task made of rows, and what is to be said of them.

    Attributes:
        task: as a run would read it.
        columns: of the training rows, by name.
        why: lines (label, text): what was guessed from what.
        left: columns that the task does not read.
        splits: by name.
        warnings: what a person should look at.
        refused: what a run would refuse.
    """

    task: TaskConfig
    columns: Mapping[str, Column]
    why: Sequence[tuple[str, str]]
    left: Sequence[str]
    splits: Mapping[str, SplitFacts]
    warnings: Sequence[str] = ()
    refused: Sequence[str] = field(default_factory=tuple)


def describe(
    given: Given,
    text: Sequence[str] = (),
    label: str | None = None,
    kind: str | None = None,
    subset: str | None = None,
    note: Note = silent,
) -> Description:
    """Read all splits, guess what they are, count.

    Args:
        given: where they lie.
        text: text columns, where a person said them.
        label: the label's column, where a person said it.
        kind: of task, where a person said it.
        subset: configuration of a data set of the hub.
        note: is told of a download.

    Raises:
        ConfigError: rows that cannot be read, or make no task.
    """
    draft = _draft(given, subset, note)
    tables = {split: _read(draft, given, split) for split in draft.splits}
    columns = {split: columns_of(table) for split, table in tables.items()}
    found = guess(columns["train"], text, label, kind)
    for split, others in columns.items():
        missing = [name for name in found.needs if name not in others]
        if missing:
            raise ConfigError(f"{draft.splits[split]} has no column {missing[0]!r}, as train has")
    withheld = [s for s in columns if s != "train" and _withheld(found, columns[s])]
    columns = {split: known for split, known in columns.items() if split not in withheld}
    draft = replace(draft, splits={s: draft.splits[s] for s in columns})
    task = _task(draft, found, columns)
    facts = {s: _facts(task, known, tables[s]) for s, known in columns.items()}
    task = replace(task, max_length=_length(task, facts["train"].words))
    _check_words(task)
    registry.get(task.kind).check(task)
    warnings = [f"{s}: no labels there, so it is left out" for s in withheld]
    warnings += _warnings(found, task, facts, columns)
    return Description(
        task, columns["train"], found.why, found.left, facts, warnings, _refused(task)
    )


def _draft(given: Given, subset: str | None, note: Note) -> TaskConfig:
    """A task that says where its rows lie, and no more."""
    folder = None if given.folder is None else shown(given.folder)
    task = TaskConfig(
        name=given.name,
        version=1,
        text_columns=(),
        label_column="label" if given.pictures else None,
        classes=(),
        metrics=(),
        splits=given.splits,
        eval_split=HOLDOUT,
        tune_split=HOLDOUT,
        folder=folder,
        hub_path=given.hub_path,
        hub_name=subset,
        image_column="image" if given.pictures else None,
        license="yours" if given.hub_path is None else "",
    )
    if given.hub_path is None:
        return task
    there = list(hub.builder(hub.pin(task, note), note).info.splits)
    if "train" not in there:
        raise ConfigError(
            f"{given.hub_path} has the splits {listed(there)}, none is called train; write its "
            "task by hand (docs/adding.md) with splits: {train: ...}"
        )
    return replace(task, splits={s: s for s in ("train", "validation", "test") if s in there})


def shown(folder: Path) -> str:
    """A folder from the working directory where it is in it, as a person there would write it."""
    relative = os.path.relpath(folder)
    return str(folder) if relative.startswith("..") else relative


def _read(task: TaskConfig, given: Given, split: str) -> Table:
    table = locate(task, None, split).read(["image", "label"] if given.pictures else None)
    if not table.columns.num_rows:
        raise ConfigError(f"{task.splits[split]} has no rows; give the split at least one")
    return table


def _withheld(found: Guess, columns: Mapping[str, Column]) -> bool:
    """Whether no row of a split has a label: none at all, or -1 where others have classes."""
    if found.label is None:
        return False
    said = set(columns[found.label.name].values)
    return not said or (said == {"-1"} and "-1" not in found.label.values)


def _task(
    draft: TaskConfig, found: Guess, columns: Mapping[str, Mapping[str, Column]]
) -> TaskConfig:
    kind = found.fields["kind"]
    classes: tuple[str, ...] = ()
    if found.label is not None and kind != "regression":
        classes = tuple(found.names) or tuple(found.label.names) or _classes(found, columns)
    few = len(classes) == 2 and kind == "text_classification"
    metrics = _METRICS.get(kind, ("accuracy", "f1") if few else ("accuracy",))
    eval_split = "validation" if "validation" in draft.splits else HOLDOUT
    made = replace(
        draft, classes=classes, metrics=metrics, eval_split=eval_split, label_column=None
    )
    return replace(made, **found.fields)


def _classes(found: Guess, columns: Mapping[str, Mapping[str, Column]]) -> tuple[str, ...]:
    """Values of the label in all splits: numbers by size, tags by type, else by the alphabet."""
    assert found.label is not None
    values = set(found.label.values)
    if found.fields["kind"] == "token_classification":
        for of_split in columns.values():
            for cell in of_split[found.label.name].there:
                values |= set(map(spoken, cell.split() if isinstance(cell, str) else cell))
        return tuple(sorted(values, key=lambda tag: (tag != "O", tag[2:], tag)))
    values = values.union(*(known[found.label.name].values for known in columns.values()))
    if all(value.lstrip("-").isdigit() for value in values):
        return tuple(sorted(values, key=int))
    return tuple(sorted(values))


def _facts(task: TaskConfig, columns: Mapping[str, Column], table: Table) -> SplitFacts:
    label = columns.get(task.label_column or "")
    read = registry.get(task.kind).columns(task)
    texts = [columns[n] for n in read if columns[n] is not label and columns[n].sort != "image"]
    rows = [
        " ".join(_said(cell) for cell in cells)
        for cells in zip(*(c.cells for c in texts), strict=True)
    ]
    seen: dict[str, list[int]] = defaultdict(list)
    for row, said in enumerate(rows):
        seen[normalised(said)].append(row)
    seen.pop("", None)
    classes = label is not None and bool(task.classes) and task.kind != "token_classification"
    labels = {name: 0 for name in task.classes} if classes else {}
    contradicting = []
    if label is not None and classes:
        numbered = _numbered(task, label)
        for value, count in label.values.items():
            labels[numbered.get(value, value)] = count
        for several in seen.values() if task.kind == "text_classification" else ():
            other = [r for r in several if label.cells[r] != label.cells[several[0]]]
            if other:
                contradicting.append((table.place(several[0]), table.place(other[0])))
    return SplitFacts(
        rows=table.columns.num_rows,
        labels=labels,
        words=np.array([len(said.split()) for said in rows], np.int64),
        empty={c.name: n for c in texts if (n := len(c.cells) - len(c.there))},
        repeated=sum(len(several) - 1 for several in seen.values()),
        contradicting=contradicting,
    )


def _check_words(task: TaskConfig) -> None:
    """Refuse a column or a label that no file of configurations can say.

    Raises:
        ConfigError: it has a control character, or what is a reference to another key there.
    """
    for item in fields(task):
        value = getattr(task, item.name)
        for word in value if isinstance(value, tuple) else [value]:
            if "${" in str(word):
                raise ConfigError(
                    f"task.{item.name} would be {brief(word)}, and ${{ is a reference there; "
                    "rename it in the rows"
                )
        check_value(f"task.{item.name}", list(value) if isinstance(value, tuple) else value)


def _numbered(task: TaskConfig, label: Column) -> dict[str, str]:
    """What a label's value is called, where classes have names and rows have numbers."""
    if set(label.values) <= set(task.classes):
        return {}
    return {str(number): name for number, name in enumerate(task.classes)}


def _said(cell: Any) -> str:
    """The texts of a cell: of a list its items, of a chat what its messages say."""
    if isinstance(cell, list):
        return " ".join(str(c["content"] if isinstance(c, Mapping) else c) for c in cell)
    return "" if cell is None else str(cell)


def _length(task: TaskConfig, words: np.ndarray) -> int:
    """Tokens that 19 rows in 20 have at most, as a guess from their words; 512 is the most."""
    if not len(words):
        return task.max_length
    wanted = _TOKENS * float(np.quantile(words, 0.95)) + 3
    return next((n for n in LENGTHS if n >= wanted), LENGTHS[-1])


def _warnings(
    found: Guess,
    task: TaskConfig,
    facts: Mapping[str, SplitFacts],
    columns: Mapping[str, Mapping[str, Column]],
) -> list[str]:
    said = []
    values = found.label.values if found.label is not None and task.classes else {}
    if "-1" in values and "0" in values and "1" in values:
        said.append(
            f"{task.label_column}: -1 is a class here; where it means that a label is withheld, "
            "remove such rows and run this again"
        )
    spelled: dict[str, set[str]] = defaultdict(set)
    for cell in found.label.there if values and found.label is not None else ():
        if isinstance(cell, str):
            spelled[spoken(cell)].add(cell.strip())
    one = [f"{listed(sorted(ways))} are {name}" for name, ways in spelled.items() if len(ways) > 1]
    if one:
        said.append(f"{task.label_column}: read as one class, as a run reads them: {listed(one)}")
    alike: dict[str, list[str]] = defaultdict(list)
    for name in task.classes:
        alike[normalised(name)].append(name)
    twins = [f"{brief(a)} and {brief(b)}" for a, b, *_ in (n for n in alike.values() if n[1:])]
    if twins:
        said.append(f"classes that differ in case or blanks alone: {listed(twins)}")
    train = facts["train"].labels
    rare = [name for name, count in train.items() if count < 2]
    if rare:
        said.append(f"classes with no or one training row: {listed(rare)}")
    for split, others in facts.items():
        new = [n for n, count in others.labels.items() if count and not train.get(n)]
        if new:
            said.append(f"{split} has classes that train has not: {listed(new)}")
    return said


def _refused(task: TaskConfig) -> list[str]:
    """What a run would say of each split; images are decoded when they are cached."""
    said = []
    for split in task.splits if task.image_column is None else ():
        try:
            load_rows(task, None, split)
        except ConfigError as error:
            said.append(str(error))
    return said
