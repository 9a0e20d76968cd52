"""Prints a table of text: as wide as the screen, or for a file in Markdown, LaTeX or CSV."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ffalora_cli.report.table import formats

if TYPE_CHECKING:
    from rich.table import Table

    from ffalora_cli.report.table.formats import Grid

_PIPED = 1000  # columns where there is no terminal: nothing is folded


def print_grid(grid: Grid, form: str = "table", caption: str = "", label: str = "") -> None:
    """Print a table.

    Args:
        grid: of text.
        form: ``table``, ``md``, ``latex`` or ``csv`` (cells alone).
        caption: above it; LaTeX in LaTeX.
        label: of a LaTeX table.
    """
    if form == "table":
        _on_screen(formats.text(grid), caption)
    else:
        print(written(grid, form, caption, label))


def written(grid: Grid, form: str, caption: str = "", label: str = "") -> str:
    """A table as text of a file: ``md``, ``latex`` or ``csv``."""
    if form == "latex":
        return formats.latex(grid, caption, label)
    return formats.csv(grid) if form == "csv" else formats.markdown(grid, caption)


def _on_screen(grid: Grid, caption: str) -> None:
    """No frames: it is read in terminals of any colour, and pasted into mails.

    Words give way on a narrow screen, at their blanks, then columns that may; numbers never do.
    """
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False, emoji=False, markup=False)
    if not console.is_terminal:
        console = Console(width=_PIPED, highlight=False, emoji=False, no_color=True, markup=False)
    if caption:
        console.print(caption, soft_wrap=True)
    notes = [*grid.notes]
    if grid.spare and sum(_widths(grid)) + len(grid.head) > console.width:
        spare = grid.head[-grid.spare :]
        grid = formats.narrowed(grid)
        notes = [*grid.notes, f"not shown for want of room: {', '.join(spare)}"]
    if sum(_widths(grid)) + len(grid.head) <= console.width:
        console.print(_rich(grid))
    else:
        console.print("\n\n".join(_listed(grid)), soft_wrap=True)
    for note in notes:
        console.print(note, style="dim")


def _rich(grid: Grid) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column, (title, width) in enumerate(zip(grid.head, _widths(grid), strict=True)):
        number = column >= grid.words
        table.add_column(title, justify="right" if number else "left", min_width=width)
    for i, row in enumerate(grid.rows):
        bold = [grid.marks.get((i, j)) == formats.BEST for j in range(len(row))]
        cells = (Text(cell, "bold" if b else "") for cell, b in zip(row, bold, strict=True))
        table.add_row(*cells)
    return table


def _widths(grid: Grid) -> list[int]:
    """Columns that cells need: numbers all of theirs, words the longest; titles break anywhere."""
    return [
        max(
            len(piece)
            for row in (*grid.rows, [""] * len(grid.head))
            for piece in ([row[column]] if column >= grid.words else row[column].split() or [""])
        )
        for column in range(len(grid.head))
    ]


def _listed(grid: Grid) -> list[str]:
    """A row as lines of title and cell, for a screen that is too narrow for the table."""
    room = max(map(len, grid.head)) + 2
    return [
        "\n".join(title.ljust(room) + cell for title, cell in zip(grid.head, row, strict=True))
        for row in grid.rows
    ]
