"""Shows how far long work is."""

from __future__ import annotations

import os
import sys
import time

_PATIENCE = 1.0  # seconds before anything is said
_REDRAWN, _LINES = 0.2, 10.0  # seconds between two states of a line, and between two lines


class Counting:
    """A line on standard error that counts; gone when the work is done, and on a pipe rare.

    Args:
        what: as in ``checking jobs``.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._redraws = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._next = time.monotonic() + _PATIENCE
        self._drawn = False

    def __enter__(self) -> Counting:
        return self

    def __call__(self, done: int, total: int) -> None:
        """Say how much of it is done, if it is time to."""
        now = time.monotonic()
        if now < self._next or done == total:
            return
        self._next = now + (_REDRAWN if self._redraws else _LINES)
        self._drawn = self._redraws
        before, after = ("\r\x1b[2K", "") if self._redraws else ("", "\n")
        text = f"{before}{self._what}: {done:,} of {total:,}{after}"
        print(text, end="", file=sys.stderr, flush=True)

    def __exit__(self, *exception: object) -> None:
        if self._drawn:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
