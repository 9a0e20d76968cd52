"""One split of a task as checked rows: texts, targets, clients, and a fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.data.groups import as_keys, text_keys
from ffalora_cli.data.readers import Table
from ffalora_cli.data.source import Source, locate
from ffalora_cli.tasks import registry
from ffalora_cli.tasks.targets import Targets


@dataclass(frozen=True)
class Rows:
    """The rows of one split, in the order of their source."""

    texts: tuple[list[str], ...]  # one list a text column, each [n]
    targets: Targets
    clients: np.ndarray | None  # int64 [n], 0.. in sorted order of the column's values
    client_names: tuple[str, ...] | None  # by client, as the column has them
    hashes: np.ndarray  # uint64 [n], equal for texts that differ in blanks around them at most
    text_keys: np.ndarray  # uint64 [n], equal for equal normalised texts
    unit_keys: np.ndarray | None  # uint64 [n], equal for equal values of task.unit_column
    fingerprint: str  # of texts, targets, clients and units, whatever the file format
    origin: str
    empty_texts: int = 0  # of pairs: the other text is there

    def __len__(self) -> int:
        return len(self.targets)


def load_rows(task: TaskConfig, data_dir: str | None, split: str) -> Rows:
    """Read and check one split.

    Args:
        task: columns and classes.
        data_dir: ``paths.data``, or None.
        split: a key of ``task.splits``.

    Raises:
        ConfigError: the split is not to be found; a column, or a cell, is missing; a text is not
            text; a target cannot be one (``Task.targets``).
    """
    return read_rows(task, locate(task, data_dir, split), split)


def read_rows(task: TaskConfig, source: Source, split: str) -> Rows:
    """The same, of a source already located."""
    kind = registry.get(task.kind)
    others = [task.label_column, task.client_column, task.unit_column]
    table = source.read(list(dict.fromkeys([*kind.columns(task), *filter(None, others)])))
    columns = table.columns
    if not columns[task.label_column]:
        raise ConfigError(f"{source.origin} has no rows; give the split at least one")
    _require_any(table, task.text_columns)
    for name in filter(None, others):
        _require_any(table, (name,))
    texts = tuple(_texts(table, name) for name in task.text_columns)
    targets = kind.targets(task, columns, table.place, split)
    clients, names, units = None, None, None
    if task.client_column is not None:
        clients, names = _clients(table, task.client_column)
    if task.unit_column is not None:
        units = as_keys(str(value) for value in columns[task.unit_column])
    hashes = _hash_texts(texts)
    digest = hashlib.blake2b(hashes.tobytes(), digest_size=16)
    for column in (*targets.arrays().values(), clients, units):
        if column is not None:
            digest.update(column.tobytes())
    return Rows(
        texts=texts,
        targets=targets,
        clients=clients,
        client_names=names,
        hashes=hashes,
        text_keys=text_keys(texts),
        unit_keys=units,
        fingerprint=digest.hexdigest(),
        origin=source.origin,
        empty_texts=sum(not text.strip() for column in texts for text in column),
    )


def _require_any(table: Table, names: Sequence[str]) -> None:
    """Refuse rows with nothing in any of the columns; of a pair, one text may be empty."""
    cells = zip(*(table.columns[name] for name in names), strict=True)
    empty = [row for row, values in enumerate(cells) if all(map(_is_missing, values))]
    if empty:
        total = len(table.columns[names[0]])
        raise ConfigError(
            f"{table.place(empty[0])}: {' and '.join(names)} missing or empty, in {len(empty)} of "
            f"{total} rows; fill it in, or remove such rows"
        )


def _is_missing(value: Any) -> bool:
    """A null, what pandas writes for one (NaN), or blanks: formats differ in what they can say."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _texts(table: Table, name: str) -> list[str]:
    values = ["" if _is_missing(value) else value for value in table.columns[name]]
    for row, value in enumerate(values):
        if not isinstance(value, str):
            kind = type(value).__name__
            raise ConfigError(f"{table.place(row)}: {name} is {kind}, not text; correct the row")
        if not _encodable(value):
            raise ConfigError(f"{table.place(row)}: {name} is not Unicode text; correct the row")
    return values


def _encodable(text: str) -> bool:
    """Whether it is text that UTF-8 has words for; JSON can name halves of a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _clients(table: Table, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Client of each row, int64 [n], and their names."""
    values = table.columns[name]
    for row, value in enumerate(values):
        if not isinstance(value, str | int | float) or type(value) is not type(values[0]):
            raise ConfigError(
                f"{table.place(row)}: {name} is {type(value).__name__}; "
                "give every row one kind of name or number"
            )
    names, codes = np.unique(np.asarray(values), return_inverse=True)
    return codes.astype(np.int64), tuple(map(str, names.tolist()))


def _hash_texts(texts: tuple[list[str], ...]) -> np.ndarray:
    """Eight bytes of BLAKE2b a row; surrounding blanks do not count. -> uint64 [n]."""
    return as_keys("\x1f".join(map(str.strip, row)) for row in zip(*texts, strict=True))
