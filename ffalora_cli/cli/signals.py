"""Turns signals into stops: the first in good order, the second at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ffalora_cli.stopping import SIGNALS, StopFlag

_SHOW_CURSOR = b"\x1b[?25h"
_ECHO = 1.0  # seconds in which one cause may say it twice: kernel and shell, Slurm and its job


@contextmanager
def stop_on_signals(relayed: bool = False) -> Iterator[StopFlag]:
    """The flag that signals set while the block runs; the handlers before it come back after.

    In a thread nothing is handled: signals are the main thread's affair, and its program's.

    Args:
        relayed: whether a launcher passes on the Ctrl-C that the terminal has sent here already, as
            torchrun does: then the second within a second is no haste.
    """
    stop = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    asked: list[tuple[int, float]] = []

    def handle(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        echoes = relayed or number != signal.SIGINT
        if asked and echoes and number == asked[0][0] and now - asked[0][1] < _ECHO:
            return
        if asked:  # every finished round is on disk, so nothing is lost by leaving here and now
            if sys.stderr.isatty():
                os.write(sys.stderr.fileno(), _SHOW_CURSOR)
            os._exit(128 + number)
        asked.append((number, now))
        stop.request(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if number != signal.SIGHUP or handler is not signal.SIG_IGN:  # nohup means it
            signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: set by other code than Python's
                signal.signal(number, handler)
