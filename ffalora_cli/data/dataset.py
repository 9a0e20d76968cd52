"""The training rows and the evaluation splits of a run, tokenised; hold-outs are cut here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ffalora_cli.config.errors import ConfigError, choose
from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.data.cache import cache_root, entry_key, hash_memory, read_entry, write_entry
from ffalora_cli.data.encode import Encoded, encode
from ffalora_cli.data.load import load_rows, read_rows
from ffalora_cli.data.source import locate
from ffalora_cli.keys import derive, numpy_generator

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HOLDOUT = "holdout"


@dataclass(frozen=True)
class TaskData:
    """What a run trains and is scored on."""

    train: Encoded  # every row a client may get
    evals: dict[str, Encoded]  # split name -> rows; the first is the headline
    facts: dict[str, Any]  # provenance, for the manifest


def prepare(
    task: TaskConfig,
    tokenizer: PreTrainedTokenizerBase,
    data_dir: str | None = None,
    cache_dir: str | None = None,
    max_length: int | None = None,
) -> TaskData:
    """Load and tokenise the rows this run trains on, and the splits ``task.eval_on`` looks at.

    A split named ``holdout`` is a stratified part of train that no client is given. The evaluation
    hold-out is cut whatever the run looks at; the tuning hold-out, from what remains, only when
    tuning, and then the evaluation rows are not touched.

    Args:
        task: the task.
        tokenizer: a fast Hugging Face tokenizer.
        data_dir: ``paths.data``.
        cache_dir: ``paths.cache``; None means ``$FFALORA_CACHE`` or ``~/.cache/ffalora``.
        max_length: tokens a row is truncated to; None means ``task.max_length``.

    Raises:
        ConfigError: a split cannot be had, is not labelled, or the length does not fit the model.
    """
    length = task.max_length if max_length is None else max_length
    if not 2 < length <= tokenizer.model_max_length:
        raise ConfigError(
            f"task.max_length={length} does not fit the model, which reads 3 to "
            f"{tokenizer.model_max_length} tokens; set task.max_length within that"
        )
    evaluated = evaluated_splits(task)
    train, train_facts = _encoded_split(task, tokenizer, data_dir, cache_dir, "train", length)
    facts: dict[str, Any] = {"task": task.name, "version": task.version, "max_length": length}
    train, held_out = _cut(task, train)
    evals: dict[str, Encoded] = {}
    splits: dict[str, dict[str, Any]] = {}
    for name in evaluated:
        if name == HOLDOUT:
            evals[name], splits[name] = held_out[task.eval_on], train_facts
        else:
            evals[name], splits[name] = _encoded_split(
                task, tokenizer, data_dir, cache_dir, name, length
            )
    facts["eval_on"] = task.eval_on
    facts["train"] = train_facts | _describe(train, task, length)
    facts["evals"] = {
        name: splits[name]
        | _describe(split, task, length)
        | {"rows_also_in_train": int(np.isin(split.hashes, train.hashes).sum())}
        for name, split in evals.items()
    }
    return TaskData(train, evals, facts)


def cut_holdout(
    labels: np.ndarray, hashes: np.ndarray, num_classes: int, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split rows in two, by class, equal texts on one side; the order of the rows plays no part.

    Args:
        labels: int [n].
        hashes: uint64 [n], equal for equal texts.
        num_classes: labels are below it.
        fraction: of each class to hold out, rounded, at least one row.
        seed: of this cut alone.

    Returns:
        (kept, held out): row numbers, ascending, int64.
    """
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    sizes = np.bincount(group)  # [groups]
    order = numpy_generator(derive(seed, "holdout")).permutation(len(sizes))
    held_groups = np.zeros(len(sizes), dtype=bool)
    for label in range(num_classes):
        members = order[labels[first[order]] == label]
        quota = max(1.0, np.rint(fraction * sizes[members].sum()))
        held_groups[members[np.cumsum(sizes[members]) <= quota]] = True
    held = held_groups[group]
    return np.flatnonzero(~held), np.flatnonzero(held)


def evaluated_splits(task: TaskConfig) -> tuple[str, ...]:
    """The splits this run looks at, headline first.

    Raises:
        ConfigError: one that the task does not have.
    """
    chosen = {"eval": task.eval_split, "tune": task.tune_split, "test": "test"}
    if task.eval_on not in chosen:
        raise choose("task.eval_on", task.eval_on, chosen)
    names = [chosen[task.eval_on]]
    if task.eval_on == "eval":
        names += task.extra_eval_splits
    if task.eval_on == "test" and "test" not in task.splits:
        raise ConfigError(
            f"task.eval_on=test: {task.name} has no test split; use task.eval_on=eval"
        )
    if task.eval_on == "tune" and task.tune_split == task.eval_split != HOLDOUT:
        raise ConfigError(
            f"task.tune_split={task.tune_split} is the evaluation split; "
            "set task.tune_split=holdout"
        )
    for name in names:
        if name != HOLDOUT and name not in task.splits:
            raise choose(f"task.{task.eval_on}_split", name, [HOLDOUT, *task.splits])
    return tuple(names)


def _cut(task: TaskConfig, train: Encoded) -> tuple[Encoded, dict[str, Encoded]]:
    """Cut what has to be cut; -> (training rows, {"eval" | "tune": held-out rows})."""
    kept, held_out = _cut_rows(task, train.labels, train.hashes)
    if not held_out:
        return train, {}
    return train.take(kept), {purpose: train.take(rows) for purpose, rows in held_out.items()}


def _cut_rows(
    task: TaskConfig, labels: np.ndarray, hashes: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Row numbers that stay for training, and those held out by purpose."""
    cuts = [("eval", task.holdout_seed)] if task.eval_split == HOLDOUT else []
    if task.eval_on == "tune" and task.tune_split == HOLDOUT:
        cuts.append(("tune", task.holdout_seed + 1))
    if cuts and not 0 < task.holdout_fraction < 1:
        raise ConfigError(
            f"task.holdout_fraction={task.holdout_fraction} is not between 0 and 1; 0.1 is usual"
        )
    left = np.arange(len(labels))
    held_out: dict[str, np.ndarray] = {}
    for purpose, seed in cuts:
        kept, held = cut_holdout(
            labels[left], hashes[left], len(task.classes), task.holdout_fraction, seed
        )
        if not len(kept):
            raise ConfigError(
                f"task.holdout_fraction={task.holdout_fraction} leaves no training row of task "
                f"{task.name}; make it smaller"
            )
        left, held_out[purpose] = left[kept], left[held]
    return left, held_out


def training_labels(
    task: TaskConfig, data_dir: str | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels int64 [n] and client column (or None) of the rows ``prepare`` would train on.

    Nothing is tokenised: this is what a partition needs to be looked at.
    """
    rows = load_rows(task, data_dir, "train")
    left, _ = _cut_rows(task, rows.labels, rows.hashes)
    return rows.labels[left], None if rows.clients is None else rows.clients[left]


def _encoded_split(
    task: TaskConfig,
    tokenizer: PreTrainedTokenizerBase,
    data_dir: str | None,
    cache_dir: str | None,
    split: str,
    max_length: int,
) -> tuple[Encoded, dict[str, Any]]:
    """One whole split, from the cache if it is there and intact. -> (rows, facts)."""
    root, memory = cache_root(cache_dir), hash_memory(cache_dir)
    source = locate(task, data_dir, split, memory)
    columns = [*task.text_columns, task.label_column, task.client_column or ""]
    identity: list[str | int] = [task.name, task.version, *columns, *task.classes]
    provenance = {"origin": source.origin, "source_fingerprint": source.fingerprint}
    key = entry_key(tokenizer, *identity, source.fingerprint, max_length)
    folder = root / f"{task.name}-{split}-{key}"
    encoded = read_entry(folder)
    if encoded is not None:
        return encoded, provenance | {"cache": "read"}
    encoded = encode(read_rows(task, source, split), tokenizer, max_length)
    try:
        write_entry(folder, encoded)
    except OSError as error:
        note = f"not written: {root}: {error.strerror or error}"
        return encoded, provenance | {"cache": note}
    stored = read_entry(folder)
    return (encoded if stored is None else stored), provenance | {"cache": "written"}


def _describe(split: Encoded, task: TaskConfig, max_length: int) -> dict[str, Any]:
    counts = np.bincount(split.labels, minlength=len(task.classes))
    return {
        "rows": len(split),
        "tokens": int(split.offsets[-1]),
        "rows_at_max_length": int((split.lengths == max_length).sum()),
        "labels": dict(zip(task.classes, counts.tolist(), strict=True)),
        "fingerprint": split.fingerprint,
    }
