"""Stopping in good order: a flag that long work polls, raised where nothing is half done.

A leaf. A signal handler sets the flag; the engine polls it between micro-batches, evaluation
between batches. What is in flight is dropped: the last finished round is on disk already.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""What asks for a stop: Ctrl-C, a scheduler, a terminal that closes, a time limit that is near."""

Poll = Callable[[], None]


class Stopped(BaseException):
    """Somebody asked the run to stop; not an ``Exception``, so that nothing mistakes it for one.

    Attributes:
        signal: its number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.signal = number


class StopFlag:
    """Set once by ``request``; ``poll`` raises from then on.

    Before ``defer`` nothing is worth finishing, so ``request`` itself raises: loading a model takes
    longer than a person waits.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._deferred = False

    def request(self, number: int) -> None:
        """Ask for a stop, by the signal of this number.

        Raises:
            Stopped: at once, unless stops are deferred to the next poll.
        """
        self._signal = number
        if not self._deferred:
            raise Stopped(number)

    def defer(self, until_poll: bool = True) -> None:
        """From now on a request waits for the next ``poll``, or again does not."""
        self._deferred = until_poll

    def poll(self) -> None:
        """Return, or leave.

        Raises:
            Stopped: when a stop was asked for.
        """
        if self._signal is not None:
            raise Stopped(self._signal)


def never() -> None:
    """The poll of work that nobody interrupts."""
