"""Says of every column of a table what its cells are: texts, categories, numbers, tags, a chat."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ffalora_cli.data.sources.pictures import SUFFIXES
from ffalora_cli.data.sources.readers import Table
from ffalora_cli.tasks.labels import WHOLE

Sort = Literal["text", "number", "truth", "list", "chat", "image", "other", "nothing"]
_TRUTH = {"true", "false"}
_FEW = 50  # whole numbers with more values are quantities, unless they count classes from 0


@dataclass(frozen=True)
class Column:
    """One column and what its cells look like.

    Attributes:
        name: of the column.
        cells: a value a row; None where it is missing (null, NaN, blank).
        names: of its classes in the file's own order, where the file brings them along.
    """

    name: str
    cells: Sequence[Any]
    names: Sequence[str] = ()

    @cached_property
    def there(self) -> list[Any]:
        """The cells that are not missing."""
        return [cell for cell in self.cells if cell is not None]

    @cached_property
    def sort(self) -> Sort:
        """What the cells are; of a column of several sorts, ``other``."""
        found = {_sort(cell) for cell in self.there}
        if found == {"text"}:
            return _sort_of_texts(self.there)
        if found <= {"number", "truth"} and len(found) == 2:
            return "number"
        return (found.pop() if len(found) == 1 else "other") if found else "nothing"  # type: ignore[return-value]

    @cached_property
    def values(self) -> Counter[str]:
        """How often each value stands there, as classes are called: ``1.0`` is ``1``."""
        return Counter(spoken(cell) for cell in self.there)

    @cached_property
    def words(self) -> float:
        """Mean number of words of a text."""
        return sum(len(str(c).split()) for c in self.there) / max(1, len(self.there))

    @property
    def whole(self) -> bool:
        """Whether all numbers are whole ones."""
        return self.sort == "number" and all(float(cell).is_integer() for cell in self.there)

    @property
    def numbered(self) -> bool:
        """Whether its values are 0, 1, ... without a gap."""
        return set(self.values) == {str(number) for number in range(len(self.values))}

    @property
    def categories(self) -> bool:
        """Whether its values repeat as those of classes do."""
        few = 2 <= len(self.values) <= len(self.there) / 2
        if self.names or self.sort == "truth":
            return len(self.values) >= 2
        if self.sort == "number":
            return few and self.whole and (len(self.values) <= _FEW or self.numbered)
        return few and self.sort == "text" and self.words <= 6


def columns_of(table: Table) -> dict[str, Column]:
    """The columns of a table by name."""
    return {
        name: Column(name, [_cell(c) for c in values], table.classes.get(name, ()))
        for name, values in table.columns.to_pydict().items()
    }


def spoken(cell: Any) -> str:
    """A label as a class of it is called, however a file writes it."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, str):
        bare = cell.strip()
        if bare.lower() in _TRUTH:
            return bare.lower()
        number = WHOLE.fullmatch(bare)  # 1e3 is a name: a run reads it so
        return cell if number is None else str(int(number[1]))
    whole = isinstance(cell, float) and cell.is_integer()
    return str(int(cell)) if whole else str(cell)


def is_bio(tags: Mapping[str, int] | Sequence[str]) -> bool:
    """Whether all are BIO tags."""
    return all(tag == "O" or tag[:2] in ("B-", "I-") for tag in tags)


def _cell(cell: Any) -> Any:
    blank = isinstance(cell, str) and not cell.strip()
    return None if blank or cell != cell else cell


def _sort(cell: Any) -> Sort:
    """What one cell is."""
    if isinstance(cell, str):
        return "text"
    if isinstance(cell, bool):
        return "truth"
    if isinstance(cell, int | float):
        return "number"
    if isinstance(cell, bytes) or (isinstance(cell, Mapping) and {"bytes", "path"} <= set(cell)):
        return "image"
    if isinstance(cell, list) and cell:
        chat = isinstance(cell[0], Mapping) and {"role", "content"} <= set(cell[0])
        return "chat" if chat else "list" if isinstance(cell[0], str | int) else "other"
    return "list" if isinstance(cell, list) else "other"


def _sort_of_texts(cells: Sequence[str]) -> Sort:
    """Cells of a CSV are texts, whatever they say."""
    if {cell.strip().lower() for cell in cells} <= _TRUTH:
        return "truth"
    if all(_number(cell) is not None for cell in cells):
        return "number"
    if all(Path(cell).suffix.lower() in SUFFIXES and len(cell.split()) == 1 for cell in cells):
        return "image"
    return "text"


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
