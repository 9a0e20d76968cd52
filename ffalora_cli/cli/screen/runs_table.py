"""The table of ``ls runs``: where each run stands, and the settings in which the runs differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ffalora_cli.cli.screen.streams import width
from ffalora_cli.cli.screen.units import human_bytes, human_seconds, score
from ffalora_cli.cli.screen.words import handle, labelled
from ffalora_cli.compose.run_name import short_key
from ffalora_cli.privacy.rounding import epsilon_text

_NUMBERS = ("result", "epsilon", "up", "time")  # right-aligned
_WORD = 16  # characters of a setting's value


def lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row a run; what the terminal is too narrow for is left out, settings last, and named.

    Args:
        rows: as ``ls runs --format json`` has them.
    """
    if not rows:
        return ["no runs"]
    columns, settings = _columns(rows), list(rows[0]["settings"])
    if _wide(columns):
        columns["run"] = [handle(row["run"]) for row in rows]
    left_out: list[str] = []
    for title in ("time", "up", *map(short_key, reversed(settings))):
        if not _wide(columns):
            break
        del columns[title]
        left_out.insert(0, title)
    widths = {title: _longest(title, cells) for title, cells in columns.items()}

    def line(texts: Sequence[str]) -> str:
        cells = (
            text.rjust(widths[title]) if title in _NUMBERS else text.ljust(widths[title])
            for title, text in zip(columns, texts, strict=True)
        )
        return "  ".join(cells).rstrip()

    found = [line(list(columns))]
    for row, cells in zip(rows, zip(*columns.values(), strict=True), strict=True):
        found.append(line(cells))
        if row["state"] == "failed":
            found += labelled("", f"failed: {row['failure']}")
    differing = [title for title in left_out if title not in _NUMBERS]
    if differing:
        found += ["", *labelled("", f"too narrow for: {', '.join(differing)}; --format json")]
    return found


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    one_year = len({row["created"][:4] for row in rows}) == 1
    columns = {
        "started": [r["created"][5 * one_year : 16].replace("T", " ") for r in rows],
        "state": [
            r["state"] + ("" if r["state"] == "done" else f" {r['round']}/{r['rounds']}")
            for r in rows
        ],
        "result": [score(r["headline"], r["value"]) for r in rows],
        "epsilon": [epsilon_text(r["epsilon_spent"]) for r in rows],
        "up": [human_bytes(r["uplink_bytes"]) for r in rows],
        "time": [human_seconds(r["seconds"]) for r in rows],
    }
    for key in rows[0]["settings"]:
        columns[short_key(key)] = [_short(r["settings"][key]) for r in rows]
    return columns | {"run": [r["run"] for r in rows]}


def _wide(columns: Mapping[str, Sequence[str]]) -> bool:
    return sum(_longest(*column) + 2 for column in columns.items()) - 2 > width()


def _longest(title: str, cells: Sequence[str]) -> int:
    return max(map(len, (title, *cells)))


def _short(value: str) -> str:
    return value if len(value) <= _WORD else f"{value[: _WORD - 3]}..."
