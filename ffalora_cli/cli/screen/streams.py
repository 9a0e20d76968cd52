"""Wraps standard output and error: what cannot be written is dropped, and known.

A terminal that was closed, a reader that left (``| head -1``), a full disk or a closed descriptor
end no run: the stream goes dark, and the caller asks ``lost`` what happened.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

WIDTH = 80  # of everything printed, where the terminal is no narrower
_NARROWEST = 24  # below that, lines are left to the terminal
_GAP = re.compile(r"(?<=\S)  +(?=\S)")  # between two columns of a table


class Screen:
    """A text stream that never raises; on a terminal, columns are not broken inside a cell.

    Args:
        stream: standard output or error as Python opened it; None where its descriptor is closed.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.lost: str | None = None  # why nothing is shown any more
        self.errno: int | None = None
        self.heard: Callable[[], None] | None = None  # is told before anything is written
        if stream is None:
            self._lose(OSError(errno.EBADF, "closed"))

    def write(self, text: str) -> int:
        """Write what a terminal can show, or nothing."""
        if self.heard is not None:
            self.heard()
        self.show(text)
        return len(text)

    def show(self, text: str) -> None:
        """Write it without a word to who listens."""
        shown = in_columns(text, width()) if self.isatty() and "\x1b" not in text else text
        with self._losing():
            if self.lost is None and self._stream is not None:
                _write(self._stream, shown)

    def flush(self) -> None:
        """Hand everything over; here a full disk or a reader that left is found out."""
        with self._losing():
            if self.lost is None and self._stream is not None:
                self._stream.flush()

    def isatty(self) -> bool:
        """Whether a person may be looking."""
        with contextlib.suppress(OSError, ValueError):
            return self.lost is None and self._stream is not None and self._stream.isatty()
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _losing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: somebody closed the stream
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        self.lost = getattr(error, "strerror", None) or str(error)
        self.errno = getattr(error, "errno", None)
        if self._stream is None:
            return
        with contextlib.suppress(OSError, ValueError):
            # What is left in its buffer would be written, and complained about, at exit.
            descriptor = self._stream.fileno()
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), descriptor)


@contextlib.contextmanager
def screens() -> Iterator[tuple[Screen, Screen]]:
    """Standard output and error that never raise, while the block runs."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file opened would take its place, and what is printed
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    out, error = (s if isinstance(s, Screen) else Screen(s) for s in before)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, error)
    try:
        yield out, error
    finally:
        out.flush()
        error.flush()
        sys.stdout, sys.stderr = before


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:  # a letter that this terminal does not have
        encoding = stream.encoding
        stream.write(text.encode(encoding, "replace").decode(encoding))


def redraws() -> bool:
    """Whether standard output is a terminal on which a line can be drawn a second time."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb").lower() not in ("dumb", "unknown")


def width() -> int:
    """Columns of the terminal, or of ``$COLUMNS``; ``WIDTH`` where there is neither."""
    if not (os.environ.get("COLUMNS") or sys.stdout.isatty()):
        return WIDTH
    return max(_NARROWEST, shutil.get_terminal_size((WIDTH, 24)).columns)


def in_columns(text: str, room: int) -> str:
    """Lines of a table that are wider than the terminal, broken between cells.

    A line without columns (a sentence, a command to copy, a path) is left as it is.

    Args:
        text: lines, the last maybe without its end.
        room: columns of the terminal.
    """
    lines = (_broken(line, room) if len(line) > room else line for line in text.split("\n"))
    return "\n".join(lines)


def _broken(line: str, room: int) -> str:
    """One line, each gap between cells that fits last before the edge made a line break."""
    start, last, pieces = 0, None, []
    for gap in (*_GAP.finditer(line), None):
        end = len(line) if gap is None else gap.start()
        if end - start > room and last is not None:
            pieces.append(line[start : last.start()])
            start = max(last.start(), last.end() - 2)  # two blanks: it belongs to the line above
            last = None
        last = gap if gap is not None else last
    return "\n".join([*pieces, line[start:]])
