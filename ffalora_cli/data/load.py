"""One split of a task as checked rows: texts, class indices, clients, and a fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ffalora_cli.config.errors import ConfigError, brief, nearest
from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.data.groups import as_keys, text_keys, value_keys
from ffalora_cli.data.source import Source, Table, locate

WITHHELD = -1


@dataclass(frozen=True)
class Rows:
    """The rows of one split, in the order of their source."""

    texts: tuple[list[str], ...]  # one list a text column, each [n]
    labels: np.ndarray  # int64 [n], indices into task.classes
    clients: np.ndarray | None  # int64 [n], 0.. in sorted order of the column's values
    client_names: tuple[str, ...] | None  # by client, as the column has them
    hashes: np.ndarray  # uint64 [n], equal for texts that differ in blanks around them at most
    text_keys: np.ndarray  # uint64 [n], equal for equal normalised texts
    unit_keys: np.ndarray | None  # uint64 [n], equal for equal values of task.unit_column
    fingerprint: str  # of texts, labels, clients and units, whatever the file format
    origin: str

    def __len__(self) -> int:
        return len(self.labels)


def load_rows(task: TaskConfig, data_dir: str | None, split: str) -> Rows:
    """Read and check one split.

    Args:
        task: columns and classes.
        data_dir: ``paths.data``, or None.
        split: a key of ``task.splits``.

    Raises:
        ConfigError: the split is not to be found, a column is missing, a text is not text, a label
            is outside ``task.classes`` or withheld (-1).
    """
    return read_rows(task, locate(task, data_dir, split), split)


def read_rows(task: TaskConfig, source: Source, split: str) -> Rows:
    """The same, of a source already located."""
    extra = [c for c in (task.client_column, task.unit_column) if c is not None]
    table = source.read(list(dict.fromkeys([*task.text_columns, task.label_column, *extra])))
    texts = tuple(_texts(table, name, source.origin) for name in task.text_columns)
    labels = _labels(task, table[task.label_column], source.origin, split)
    if not len(labels):
        raise ConfigError(f"{source.origin} has no rows; give the split at least one")
    clients, names = None, None
    if task.client_column is not None:
        where = f"{source.origin}: {task.client_column}"
        clients, names = _clients(table[task.client_column], where)
    units = None
    if task.unit_column is not None:
        units = value_keys(table[task.unit_column], f"{source.origin}: {task.unit_column}")
    hashes = _hash_texts(texts)
    digest = hashlib.blake2b(hashes.tobytes() + labels.tobytes(), digest_size=16)
    for column in (clients, units):
        if column is not None:
            digest.update(column.tobytes())
    return Rows(
        texts=texts,
        labels=labels,
        clients=clients,
        client_names=names,
        hashes=hashes,
        text_keys=text_keys(texts),
        unit_keys=units,
        fingerprint=digest.hexdigest(),
        origin=source.origin,
    )


def _texts(table: Table, name: str, origin: str) -> list[str]:
    values = table[name]
    for row, value in enumerate(values):
        if not isinstance(value, str):
            kind = type(value).__name__
            raise ConfigError(f"{origin}, row {row}: {name} is {kind}, not text; correct the row")
        if not _encodable(value):
            raise ConfigError(f"{origin}, row {row}: {name} is not Unicode text; correct the row")
    return values


def _encodable(text: str) -> bool:
    """Whether it is text that UTF-8 has words for; JSON can name halves of a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _labels(task: TaskConfig, values: Sequence[Any], origin: str, split: str) -> np.ndarray:
    """Class indices from indices, their decimal text (CSV), or class names."""
    strange = {type(value) for value in values} - {str, int, float, bool}
    if strange:
        kind = min(t.__name__ for t in strange)
        raise ConfigError(
            f"{origin}: {task.label_column} holds {kind}; give class numbers or names"
        )
    index = {value: _class_index(task, value) for value in set(values)}
    for value, label in index.items():
        if label is None:
            close = nearest(str(value), task.classes) if isinstance(value, str) else None
            hint = f" (nearest class is {close!r})" if close else ""
            where = f"{origin}, row {values.index(value)}"
            raise ConfigError(
                f"{where}: {task.label_column}={brief(value)} is not one of "
                f"the {len(task.classes)} classes of task {task.name}, numbered 0 to "
                f"{len(task.classes) - 1}{hint}; correct the row or task.classes"
            )
    labels = np.fromiter((index[value] for value in values), np.int64, len(values))
    missing = int((labels == WITHHELD).sum())
    if missing:
        raise ConfigError(
            f"{origin}: {missing} of {len(labels)} labels of split {split!r} are withheld (-1), so "
            "nothing can be scored; use task.eval_on=eval"
        )
    return labels


def _class_index(task: TaskConfig, value: Any) -> int | None:
    if isinstance(value, str):
        if value in task.classes:
            return task.classes.index(value)
        digits = value.strip()
        if not digits.removeprefix("-").isdecimal() or len(digits) > 20:
            return None
        number = int(value)
    elif isinstance(value, float) and not value.is_integer():
        return None
    else:
        number = int(value)
    return number if WITHHELD <= number < len(task.classes) else None


def _clients(values: Sequence[Any], where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Client of each row, int64 [n], and their names."""
    kinds = {type(value) for value in values}
    if len(kinds) > 1 or kinds - {str, int, float, bool}:
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ConfigError(f"{where} holds {found}; give every row one kind of name or number")
    names, codes = np.unique(np.asarray(values), return_inverse=True)
    return codes.astype(np.int64), tuple(map(str, names.tolist()))


def _hash_texts(texts: tuple[list[str], ...]) -> np.ndarray:
    """Eight bytes of BLAKE2b a row; surrounding blanks do not count. -> uint64 [n]."""
    return as_keys("\x1f".join(map(str.strip, row)) for row in zip(*texts, strict=True))
