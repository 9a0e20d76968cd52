"""Files to columns. Only the wanted columns are kept; what cannot be read is said in one line."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from ffalora_cli.config.errors import ConfigError, listed, nearest, one_line
from ffalora_cli.config.schema import TaskConfig

Table = dict[str, list[Any]]
"""Column name -> values, all of one length."""


def read_parquet(path: Path, columns: Sequence[str]) -> Table:
    """Columns of a Parquet file. ConfigError: a column is missing, or the file is damaged."""
    import pyarrow
    import pyarrow.parquet

    try:
        require(columns, pyarrow.parquet.read_schema(path).names, str(path))
        return dict(pyarrow.parquet.read_table(path, columns=list(columns)).to_pydict())
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{path} is not a Parquet file that can be read; copy it again"
        ) from error


def read_jsonl(path: Path, columns: Sequence[str]) -> Table:
    """Columns of a file of JSON objects, one a line. ConfigError: a line is not, or lacks a key."""

    def records() -> Iterator[dict[str, Any]]:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                try:
                    yield dict(json.loads(line))
                except (TypeError, ValueError, RecursionError) as error:
                    raise ConfigError(
                        f"{path}, line {number}: not a JSON object; correct it"
                    ) from error

    return _gather(path, records(), columns)


def read_csv(path: Path, columns: Sequence[str]) -> Table:
    """Columns of a CSV file with a header, all values text. ConfigError: not UTF-8, not CSV."""
    with path.open(encoding="utf-8", newline="") as stream:
        return _gather(path, csv.DictReader(stream), columns)


def _gather(path: Path, records: Iterator[dict[str, Any]], columns: Sequence[str]) -> Table:
    table: Table = {name: [] for name in columns}
    try:
        for number, record in enumerate(records, start=1):
            require(columns, record, f"{path}, record {number}")
            for name in columns:
                table[name].append(record[name])
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; save it again as UTF-8") from error
    return table


def read_texts(task: TaskConfig, files: Sequence[Path], columns: Sequence[str]) -> Table:
    """One text a file, its folder the class; undecodable bytes are dropped, as packages do."""
    known = (task.text_columns[0], task.label_column)
    require(columns, known, f"package {task.package}")
    texts = [path.read_text(encoding="utf-8", errors="ignore").strip() for path in files]
    return {known[0]: texts, known[1]: [path.parent.name for path in files]}


def require(columns: Sequence[str], present: Collection[str], where: str) -> None:
    """Raise a ConfigError naming the first wanted column that is not there, and the nearest."""
    for name in columns:
        if name not in present:
            close = nearest(name, present)
            names = sorted(one_line(str(other)) for other in present)  # a quoted one has lines
            hint = f"nearest is {close!r}" if close else f"it has {listed(names)}"
            raise ConfigError(
                f"{where} has no column {name!r} ({hint}); rename it, or set task.text_columns / "
                "task.label_column / task.client_column"
            )
