"""Makes every call to a tracker on one daemon thread, in order, until the first fails.

So neither a slow import, a dead server nor a hang inside a tracker's package delays a round. A
tracker says which rounds it has when it opens; a resumed run (or ``ffalora sync``) logs every round
again and those are left out.

When a round arrives tells how long it took, which is a function of the rows
that were drawn. So a private run's rounds are kept back and go in one batch when the run is done,
unless ``tracking.private_metrics`` asks for all of it.
"""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from ffalora_cli.config.errors import one_line
from ffalora_cli.config.schema import TrackingConfig
from ffalora_cli.records.trackers.base import RunFacts
from ffalora_cli.types import RoundRecord

FINISH_SECONDS = 60.0
KEPT_BACK = "nothing was sent yet; resume the run, or `ffalora sync` sends the rounds there are"


class BackgroundTracker(ABC):
    """A tracker whose four underscored methods may raise and take as long as they like."""

    label: str  # as people call it
    remedy: str  # for a package that is not there
    url: str | None = None  # where to look, once known

    def __init__(self, config: TrackingConfig) -> None:
        self._config = config
        self._facts: RunFacts | None = None
        self._last = -1  # round that the tracker has
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._notes: list[str] = []
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._dead = threading.Event()

    @abstractmethod
    def _open(self, facts: RunFacts) -> int:
        """Begin or go on with the run; the last round the tracker has, -1 for none."""

    @abstractmethod
    def _write(self, number: int, metrics: Mapping[str, Any]) -> None:
        """Take one round."""

    @abstractmethod
    def _close(self, values: Mapping[str, Any], exit_code: int) -> None:
        """Take the summary's scalars (none when the run did not end) and end."""

    def _last_word(self) -> str | None:
        """A line for the user when all went well, if there is something left to do."""
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """What did not work."""
        return tuple(self._notes)

    def start(self, facts: RunFacts) -> None:
        """Begin in the background, or at the end; rounds logged meanwhile are kept in order."""
        self._facts = facts
        self._jobs.put(lambda: self._opened(facts))
        if not facts.kept_back:
            self._thread.start()

    def log(self, record: RoundRecord) -> None:
        """Send a round's released metrics."""
        if self._facts is None or self._dead.is_set():
            return
        number, metrics = record.round, self._facts.released(record.metrics)
        self._jobs.put(lambda: self._logged(number, metrics))

    def finish(
        self, summary: Mapping[str, Any] | None, exit_code: int = 0, seconds: float | None = None
    ) -> None:
        """Send the summary and wait until all has arrived, ``FINISH_SECONDS`` at most."""
        if self._facts is None:
            return
        if self._thread.ident is None and summary is None:
            self._notes.append(f"{self.label}: {KEPT_BACK}")
            return
        limit = FINISH_SECONDS if seconds is None else seconds
        values = self._facts.summary(summary or {})
        if self._thread.ident is None:
            self._thread.start()
        self._jobs.put(lambda: self._close(values, exit_code))
        self._jobs.put(None)
        self._thread.join(limit)
        if self._thread.is_alive():
            self._give_up(f"not finished after {limit:g} s")
        elif not self._dead.is_set() and (word := self._last_word()):
            self._notes.append(word)

    def _opened(self, facts: RunFacts) -> None:
        self._last = self._open(facts)

    def _logged(self, number: int, metrics: Mapping[str, Any]) -> None:
        if number > self._last:
            self._write(number, metrics)
            self._last = number

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._dead.is_set():
                return
            try:
                job()
            except ImportError as error:
                self._give_up(f"{error}; {self.remedy}")
                return
            except BaseException as error:  # wandb raises SystemExit and its own in some versions
                self._give_up(str(error).strip() or type(error).__name__)
                return

    def _give_up(self, reason: str) -> None:
        if not self._dead.is_set():
            self._dead.set()
            line = one_line(reason.splitlines()[0])[:160]  # it may quote a key
            self._notes.append(f"{self.label} tracker off: {line}; the local records are complete")
