"""Loads one split of a task as checked rows: texts or images, targets, clients, a fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.data.groups import KeyedRows, as_keys, text_keys
from ffalora_cli.data.sources.pictures import Decode, decoder, picture_keys
from ffalora_cli.data.sources.readers import Table
from ffalora_cli.data.sources.source import Source, locate
from ffalora_cli.tasks import registry

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True, kw_only=True)
class Rows(KeyedRows):
    """The rows of one split, in the order of their source."""

    texts: tuple[list[str], ...]  # what ``Task.texts`` makes of the columns, each [n]
    decode: Decode | None = None  # of images instead, decoded when they are wanted
    fingerprint: str  # of texts or pixels, targets, clients and units, whatever the file format
    origin: str
    empty_texts: int = 0  # of pairs: the other text is there


def load_rows(task: TaskConfig, data_dir: str | None, split: str) -> Rows:
    """Read and check one split.

    Args:
        task: columns and classes.
        data_dir: ``paths.data``, or None.
        split: a key of ``task.splits``.

    Raises:
        ConfigError: the split is not to be found; a column, or a cell, is missing; a text is not
            text or an image none; a target cannot be one (``Task.targets``).
    """
    return read_rows(task, locate(task, data_dir, split), split)


def read_rows(task: TaskConfig, source: Source, split: str) -> Rows:
    """The same, of a source already located."""
    kind = registry.get(task.kind)
    others = [task.image_column, task.label_column, task.client_column, task.unit_column]
    table = source.read(list(dict.fromkeys([*kind.columns(task), *filter(None, others)])))
    columns = table.columns
    if not columns.num_rows:
        raise ConfigError(f"{source.origin} has no rows; give the split at least one")
    for names in (task.text_columns, *((name,) for name in filter(None, others))):
        _require_any(table, names)
    wanted = {name: columns[name].to_pylist() for name in kind.columns(task)}
    if not kind.reads_lists:
        wanted |= {name: _texts(table, name) for name in task.text_columns}
    texts = kind.texts(task, wanted, table.place)
    targets = kind.targets(task, wanted, table.place, split)
    clients, names, units = None, None, None
    if task.client_column is not None:
        clients, names = _clients(table, task.client_column)
    if task.unit_column is not None:
        units = as_keys(map(str, columns[task.unit_column].to_pylist()))
    decode = None
    if task.image_column is None:
        hashes, alike = _hash_texts(texts), text_keys(texts)
    else:
        decode = decoder(wanted[task.image_column], source.folder, table.place)
        hashes = alike = picture_keys(map(decode, range(columns.num_rows)))
    digest = hashlib.blake2b(hashes.tobytes(), digest_size=16)
    for column in (*targets.arrays().values(), clients, units):
        if column is not None:
            digest.update(column.tobytes())
    return Rows(
        texts=texts,
        decode=decode,
        targets=targets,
        clients=clients,
        client_names=names,
        hashes=hashes,
        text_keys=alike,
        unit_keys=units,
        fingerprint=digest.hexdigest(),
        origin=source.origin,
        empty_texts=sum(int(_missing(columns[name]).sum()) for name in task.text_columns),
    )


def _require_any(table: Table, names: Sequence[str]) -> None:
    """Refuse rows with nothing in any of the columns; of a pair, one text may be empty."""
    empty = np.logical_and.reduce([_missing(table.columns[name]) for name in names])
    if names and empty.any():
        raise ConfigError(
            f"{table.place(int(empty.argmax()))}: {' and '.join(names)} missing or empty, in "
            f"{empty.sum()} of {len(empty)} rows; fill it in, or remove such rows"
        )


def _missing(column: pyarrow.ChunkedArray) -> np.ndarray:
    """Nulls, what pandas writes for one (NaN), and blanks: formats differ in what they can say."""
    import pyarrow.compute as pc

    if not _is_text(column):
        return pc.is_null(column, nan_is_null=True).to_numpy()
    return pc.equal(pc.utf8_trim_whitespace(column), "").fill_null(True).to_numpy()


def _is_text(column: pyarrow.ChunkedArray) -> bool:
    from pyarrow import types

    return types.is_string(column.type) or types.is_large_string(column.type)


def _texts(table: Table, name: str) -> list[str]:
    import pyarrow.compute as pc

    column = table.columns[name]
    missing = _missing(column)
    if not _is_text(column) and not missing.all():
        row = int(missing.argmin())
        kind = type(column[row].as_py()).__name__
        raise ConfigError(f"{table.place(row)}: {name} is {kind}, not text; correct the row")
    return pc.if_else(missing, "", column).to_pylist()


def _clients(table: Table, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Client of each row, int64 [n], and their names."""
    values = table.columns[name].to_pylist()
    if not isinstance(values[0], str | int | float):
        raise ConfigError(
            f"{table.place(0)}: {name} is {type(values[0]).__name__}; give names or numbers"
        )
    names, codes = np.unique(np.asarray(values), return_inverse=True)
    return codes.astype(np.int64), tuple(map(str, names.tolist()))


def _hash_texts(texts: tuple[list[str], ...]) -> np.ndarray:
    """Eight bytes of BLAKE2b a row; surrounding blanks do not count. -> uint64 [n]."""
    return as_keys("\x1f".join(map(str.strip, row)) for row in zip(*texts, strict=True))
