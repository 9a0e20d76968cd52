"""Loads training rows and evaluation splits of a run, ready for its model; cuts hold-outs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import TEXT_CLASSIFICATION, TaskConfig
from ffalora_cli.config.splits import HOLDOUT, evaluated_splits
from ffalora_cli.content import hash_memory
from ffalora_cli.data.cache import cache_root, entry_key, read_entry, write_entry
from ffalora_cli.data.encode import Encoded, encode
from ffalora_cli.data.groups import KeyedRows
from ffalora_cli.data.holdout import cut_rows
from ffalora_cli.data.images import Images, resize
from ffalora_cli.data.load import load_rows, read_rows
from ffalora_cli.data.sources.source import locate
from ffalora_cli.keys import derive, numpy_generator
from ffalora_cli.tasks import registry

Ready = Encoded | Images
"""A split as its model reads it."""


@dataclass(frozen=True)
class TaskData:
    """What a run trains and is scored on."""

    train: Ready  # every row a client may get
    evals: dict[str, Ready]  # split name -> rows; the first is the headline
    facts: dict[str, Any]  # provenance, for the manifest


def prepare(
    task: TaskConfig,
    processor: Any,
    data_dir: str | None = None,
    cache_dir: str | None = None,
    max_length: int | None = None,
    max_examples: int | None = None,
    *,
    keep_together: str,
) -> TaskData:
    """Load and prepare the rows this run trains on, and the splits ``task.eval_on`` looks at.

    A split named ``holdout`` is a stratified part of train that no client is given. The evaluation
    hold-out is cut whatever the run looks at; the tuning hold-out, from what remains, only when
    tuning, and then the evaluation rows are not touched.

    Args:
        task: the task.
        processor: of the model: a fast tokenizer, or of images.
        data_dir: ``paths.data``.
        cache_dir: ``paths.cache``; None means ``$FFALORA_CACHE`` or ``~/.cache/ffalora``.
        max_length: tokens a row is truncated to; None means ``task.max_length``.
        max_examples: of each evaluated split so many rows are kept; None means all.
        keep_together: ``partition.keep_together``: what a hold-out takes whole.

    Raises:
        ConfigError: a split cannot be had, is not labelled, or the length does not fit the model.
    """
    length = task.max_length if max_length is None else max_length
    if task.image_column is not None:
        length = processor.tokens
    elif not 2 < length <= processor.model_max_length:
        raise ConfigError(
            f"task.max_length={length} does not fit the model, which reads 3 to "
            f"{processor.model_max_length} tokens; set task.max_length within that"
        )
    evaluated = evaluated_splits(task)
    train, train_facts = encoded_split(task, processor, data_dir, cache_dir, "train", length)
    facts: dict[str, Any] = {"task": task.name, "version": task.version, "max_length": length}
    # Counts that stay with the training rows: they go no further.
    said = {"empty_texts": train.empty_texts, "rows_too_long": train.too_long}
    train, held_out = _cut(task, keep_together, train)
    evals: dict[str, Ready] = {}
    splits: dict[str, dict[str, Any]] = {}
    for name in evaluated:
        if name == HOLDOUT:
            evals[name], splits[name] = held_out[task.eval_on], train_facts
        else:
            evals[name], splits[name] = encoded_split(
                task, processor, data_dir, cache_dir, name, length
            )
    whole = {name: len(split) for name, split in evals.items()}
    evals = {name: some_rows(task, name, split, max_examples) for name, split in evals.items()}
    facts["eval_on"] = task.eval_on
    facts["train"] = train_facts | describe(train, task, length) | said
    facts["evals"] = {
        name: splits[name]
        | describe(split, task, length)
        | {"rows_also_in_train": int(np.isin(split.text_keys, train.text_keys).sum())}
        | {"rows_of_split": whole[name]}
        for name, split in evals.items()
    }
    return TaskData(train, evals, facts)


def some_rows(task: TaskConfig, name: str, split: Ready, most: int | None) -> Ready:
    """At most ``most`` rows of a split, in its order.

    Which ones follows from the task (its ``holdout_seed``) and the split's name alone, so that all
    runs of a task with one ``most`` are scored on the same rows.
    """
    if most is None or len(split) <= most:
        return split
    generator = numpy_generator(derive(task.holdout_seed, "evaluated", name))
    return split.take(np.sort(generator.permutation(len(split))[:most]))


def _cut(task: TaskConfig, keep_together: str, train: Ready) -> tuple[Ready, dict[str, Ready]]:
    """Cut what has to be cut; -> (training rows, {"eval" | "tune": held-out rows})."""
    kept, held_out = cut_rows(task, keep_together, train)
    if not held_out:
        return train, {}
    return train.take(kept), {purpose: train.take(rows) for purpose, rows in held_out.items()}


def training_rows(task: TaskConfig, data_dir: str | None, keep_together: str) -> KeyedRows:
    """The rows ``prepare`` would train on; nothing is tokenised, a partition needs no more.

    Args:
        task: the task.
        data_dir: ``paths.data``.
        keep_together: ``partition.keep_together``.
    """
    rows = load_rows(task, data_dir, "train")
    left, _ = cut_rows(task, keep_together, rows)
    return rows.keyed(left)


def encoded_split(
    task: TaskConfig,
    processor: Any,
    data_dir: str | None,
    cache_dir: str | None,
    split: str,
    max_length: int,
) -> tuple[Ready, dict[str, Any]]:
    """One whole split, from the cache if it is there and intact. -> (rows, facts)."""
    root, memory = cache_root(cache_dir), hash_memory(cache_dir)
    source = locate(task, data_dir, split, memory)
    named = (task.label_column or "", task.client_column or "", task.unit_column or "")
    kind = registry.get(task.kind)
    columns = [*task.text_columns, *named]
    identity: list[str | int] = [task.name, task.version, *columns, *task.classes]
    if task.kind != TEXT_CLASSIFICATION:
        keys = (key for key in kind.keys if key != "generate")  # which makes no tokens
        identity += [task.kind, *kind.columns(task), *(repr(getattr(task, key)) for key in keys)]
    if task.messages_column is not None:
        identity.append(str(processor.chat_template))
    provenance = {"origin": source.origin, "source_fingerprint": source.fingerprint}
    key = entry_key(processor, *identity, source.fingerprint, max_length)
    folder = root / f"{task.name}-{split}-{key}"
    encoded, cache = read_entry(folder), "read"
    if encoded is None:
        rows = read_rows(task, source, split)
        if task.image_column is None:
            encoded = encode(rows, processor, max_length, task)
        else:
            encoded = resize(rows, processor)
        try:
            write_entry(folder, encoded)
            encoded, cache = read_entry(folder) or encoded, "written"
        except OSError as error:
            cache = f"not written: {root}: {error.strerror or error}"
    return encoded, provenance | {"cache": cache}


def describe(split: Ready, task: TaskConfig, max_length: int) -> dict[str, Any]:
    """What a manifest says about rows."""
    strata, names = registry.strata(task, split.targets)
    counts = np.bincount(strata, minlength=len(names))
    return {
        "rows": len(split),
        "tokens": int(split.lengths.sum()),
        "rows_at_max_length": int((split.lengths == max_length).sum()),
        "labels": dict(zip(names, counts.tolist(), strict=True)),
        "fingerprint": split.fingerprint,
    }
