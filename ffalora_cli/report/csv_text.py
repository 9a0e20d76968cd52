"""Writes rows as CSV: the numbers of tables and of pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Rows as CSV with a header (of the first row's keys, if not told); empty for what is None."""
    text = io.StringIO()
    names = columns or list(rows[0] if rows else ())
    if names:
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()
