"""SIGINT and SIGTERM: the first asks for an orderly stop, the second stops at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ffalora_cli.stopping import StopFlag

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = b"\x1b[?25h"


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """The flag that signals set while the block runs; the handlers before it come back after."""
    stop = StopFlag()
    asked: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if asked:  # every finished round is on disk, so nothing is lost by leaving here and now
            if sys.stderr.isatty():
                os.write(sys.stderr.fileno(), _SHOW_CURSOR)
            os._exit(128 + number)
        asked.append(number)
        stop.request(number)

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
