"""Says that a command is alive when nothing was printed for a while.

On standard error, so that what is piped on stays what it is: a line that counts on a terminal, gone
with the next thing printed; elsewhere ever rarer lines.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Self

from ffalora_cli.cli.screen.streams import Screen
from ffalora_cli.cli.screen.units import human_seconds

PATIENCE = 5.0  # seconds of silence before anything is said
RAREST = 60.0  # seconds between two lines where no line can be redrawn
_EVERY = 1.0  # seconds between two looks
_ERASE = "\r\x1b[2K"


class Waiting:
    """Looks at both screens from a thread of its own.

    Args:
        verb: what is run.
        output: standard output.
        error: standard error, where it is said.
        clock: seconds.
    """

    def __init__(
        self,
        verb: str,
        output: Screen,
        error: Screen,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._verb, self._screens, self._error, self._clock = verb, (output, error), error, clock
        self._redraws = error.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._lock, self._ended = threading.RLock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._drawn, self._next = False, PATIENCE
        self._heard()

    def __enter__(self) -> Self:
        for screen in self._screens:
            screen.heard = self._heard
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()
        self._heard()
        for screen in self._screens:
            screen.heard = None

    def look(self) -> None:
        """Say how long nothing was printed, if it is time to."""
        with self._lock:
            silent = self._clock() - self._since
            if silent < self._next:
                return
            said = f"ffalora {self._verb}: still working, {human_seconds(silent)}"
            self._next = silent if self._redraws else silent + min(silent, RAREST)
            self._drawn = self._redraws
            self._error.show(f"{_ERASE}{said}" if self._redraws else f"{said}\n")
            self._error.flush()

    def _heard(self) -> None:
        """Something is about to be printed."""
        with self._lock:
            if self._drawn:
                self._error.show(_ERASE)
            self._drawn = False
            self._since, self._next = self._clock(), PATIENCE

    def _watch(self) -> None:
        while not self._ended.wait(_EVERY):
            self.look()
