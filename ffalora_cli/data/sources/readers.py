"""Reads files into Arrow columns, the wanted ones alone; what cannot be read is one line.

CSV and JSON lines are parsed by the standard library: Arrow's parsers know no line as an editor
counts it, and take a stray quote for text.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.errors import ConfigError, brief, listed, nearest, one_line
from ffalora_cli.config.schema import TaskConfig

if TYPE_CHECKING:
    import pyarrow

Names = Sequence[str] | None
"""Names of columns; None: all there are."""
SEPARATORS = (",", ";", "\t")  # a spreadsheet's choice follows its country


@dataclass(frozen=True)
class Table:
    """The wanted columns of a split, of one type each; a cell that is not there is null."""

    columns: pyarrow.Table
    place: Callable[[int], str]  # row number -> where a person finds it: "train.csv, line 7"
    classes: Mapping[str, list[str]] = field(default_factory=dict)  # names that a file brings along


def read_files(paths: Sequence[Path], columns: Names) -> Table:
    """Columns of a split that lies in one file, or in several pieces one after the other.

    Raises:
        ConfigError: a file is damaged or not what its name says; a column is missing.
    """
    import pyarrow

    tables = [READERS[path.suffix](path, columns) for path in paths]
    ends = list(accumulate(table.columns.num_rows for table in tables))

    def place(row: int) -> str:
        piece = bisect_right(ends, row)
        return tables[piece].place(row - (ends[piece - 1] if piece else 0))

    pieces = [table.columns for table in tables]
    try:
        joined = pyarrow.concat_tables(pieces, promote_options="permissive")
        return Table(joined, place, tables[0].classes)
    except pyarrow.ArrowException as error:
        raise ConfigError(
            f"{paths[0].parent}: pieces of one split differ in their columns "
            f"({one_line(str(error))}); write them with one type a column"
        ) from error


def from_arrow(table: pyarrow.Table, columns: Names, where: str) -> Table:
    """Columns of an Arrow table; a class label goes by its name, whatever its number there."""
    import pyarrow

    columns = table.column_names if columns is None else columns
    require(columns, table.column_names, where)
    table = table.select(list(columns))
    table.validate(full=True)
    classes = {name: _class_names(table.schema, name) for name in columns}
    plain = {name: _plain(table[name], names) for name, names in classes.items()}
    known = {name: names for name, names in classes.items() if names is not None}
    return Table(pyarrow.table(plain), lambda row: f"{where}, row {row} (the first is 0)", known)


def _plain(column: pyarrow.ChunkedArray, names: list[str] | None) -> pyarrow.ChunkedArray:
    """Values in place of a dictionary; of class numbers their names, or digits without one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if names is None or not pa.types.is_integer(column.type):
        return column
    known = pc.and_(pc.greater_equal(column, 0), pc.less(column, len(names)))
    named = pa.array(names, pa.string()).take(pc.if_else(known, column, None))
    return pc.coalesce(named, column.cast(pa.string()))


def _class_names(schema: pyarrow.Schema, column: str) -> list[str] | None:
    """What `datasets` wrote beside the columns: the names of a ClassLabel, in its own order."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        while "feature" in feature:  # of a list of tags
            feature = feature["feature"]
        names = feature["names"] if feature["_type"] == "ClassLabel" else None
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return names if isinstance(names, list) and all(isinstance(n, str) for n in names) else None


def _read_arrow(path: Path, columns: Names) -> Table:
    """A Parquet file, or a stream of record batches as ``save_to_disk`` writes it."""
    import pyarrow
    import pyarrow.parquet

    parquet = path.suffix == ".parquet"
    try:
        if parquet:
            with pyarrow.parquet.ParquetFile(path) as file:
                require(columns or (), file.schema_arrow.names, str(path))
                return from_arrow(file.read(columns and list(columns)), columns, str(path))
        with pyarrow.memory_map(str(path)) as file, pyarrow.ipc.open_stream(file) as stream:
            return from_arrow(stream.read_all(), columns, str(path))
    except ConfigError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        kind = "Parquet" if parquet else "Arrow"
        raise ConfigError(f"{path} is not {kind} that can be read; copy it again") from error


def _read_jsonl(path: Path, columns: Names) -> Table:
    """One JSON object a line; blank lines are passed over."""
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    present: dict[str, None] = {}
    for number, line in enumerate(io.StringIO(_text(path), newline=None), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise ConfigError(f"{path}, line {number}: not a JSON object; correct it")
        lines.append(number)
        present |= dict.fromkeys(record)
        records.append(record if columns is None else {n: record.get(n) for n in columns})
    columns = list(present) if columns is None else columns
    if lines:
        require(columns, list(present), str(path))
    values = {name: [record.get(name) for record in records] for name in columns}
    return _typed(values, lambda row: f"{path}, line {lines[row]}")


def _read_csv(path: Path, columns: Names) -> Table:
    """Cells as text below a header; blank lines are passed over."""
    csv.field_size_limit(sys.maxsize)  # a text may be long
    text = _text(path)
    headers = {mark: _header(text, mark) for mark in SEPARATORS}
    if columns is None:
        separator = max(SEPARATORS, key=lambda mark: len(headers[mark]))
    else:
        fitting = (mark for mark in SEPARATORS if set(columns) <= set(headers[mark]))
        separator = next(fitting, SEPARATORS[0])
    header = headers[separator]
    if not header:
        raise ConfigError(f"{path} is empty; its first line should name the columns")
    columns = header if columns is None else columns
    require(columns, header, str(path))
    values: dict[str, list[Any]] = {name: [] for name in columns}
    lines: list[int] = []
    records = _records(path, text, separator)
    next(records)  # the header
    for line, cells in records:
        if any(cells[len(header) :]):
            raise ConfigError(
                f"{path}, line {line}: {len(cells)} cells, the header has {len(header)}; "
                'put a text with the separator in it between "quotes"'
            )
        lines.append(line)
        for name in columns:
            at = header.index(name)
            values[name].append(cells[at] if at < len(cells) else None)
    return _typed(values, lambda row: f"{path}, line {lines[row]}")


def _typed(values: Mapping[str, Sequence[Any]], place: Callable[[int], str]) -> Table:
    """Columns of Python's values, refused at the first that is not of one type with those above."""
    import pyarrow

    def fails(cells: Sequence[Any]) -> bool:
        try:
            pyarrow.array(cells)
        except (pyarrow.ArrowException, OverflowError, UnicodeError):
            return True
        return False

    for name, cells in values.items():
        if fails(cells):
            row = bisect_left(range(len(cells)), True, key=lambda n: fails(cells[: n + 1]))
            raise ConfigError(
                f"{place(row)}: {name}={brief(cells[row])} is no Unicode text, or of another type "
                "than in the rows above; correct it, or write all of them as text"
            )
    return Table(pyarrow.table(dict(values)), place)


def _header(text: str, separator: str) -> list[str]:
    return next(filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=separator)), [])


def _records(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """(line it starts on, cells) of every record that is not blank; lines as an editor counts."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ConfigError(
            f"{path}, line {line}: a cell that opens with a quote does not end with one "
            f'({error}); double a quote that belongs to the text (""), or remove it'
        ) from error


def _text(path: Path) -> str:
    """A file as text, without the mark that spreadsheets put first."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8; save it again as UTF-8") from error


READERS: dict[str, Callable[[Path, Names], Table]] = {
    ".parquet": _read_arrow,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".arrow": _read_arrow,
}


def read_texts(task: TaskConfig, files: Sequence[Path], columns: Sequence[str]) -> Table:
    """One text a file, its folder the class; undecodable bytes are dropped, as packages do."""
    known = (task.text_columns[0], task.label_column)
    require(columns, known, f"package {task.package}")
    texts = [path.read_text(encoding="utf-8", errors="ignore").strip() for path in files]
    labels = [path.parent.name for path in files]
    return _typed({known[0]: texts, known[1]: labels}, lambda row: str(files[row]))


def read_pictures(task: TaskConfig, files: Sequence[Path], columns: Sequence[str]) -> Table:
    """The paths of images, the folder of each its class."""
    known = (str(task.image_column), str(task.label_column))
    require(columns, known, f"the folder of {task.name}")
    labels = [path.parent.name for path in files]
    paths = [str(path.absolute()) for path in files]
    return _typed({known[0]: paths, known[1]: labels}, lambda row: str(files[row]))


def require(columns: Sequence[str], present: Collection[str], where: str) -> None:
    """Raise a ConfigError naming the first wanted column that is not there, or is there twice."""
    times = Counter(present)
    for name in columns:
        if not times[name]:
            close = nearest(name, present)
            names = sorted(one_line(str(other)) for other in present)  # a quoted one has lines
            hint = f"nearest is {close!r}" if close else f"it has {listed(names) or 'none'}"
            raise ConfigError(
                f"{where} has no column {name!r} ({hint}); rename it, or name another in "
                "task.prompt / completion / text_columns / image_column / label_column / "
                "client_column / unit_column"
            )
        if times[name] > 1:
            raise ConfigError(f"{where} has {times[name]} columns {name!r}; rename all but one")
