"""Weights & Biases: one W&B run a run, with the same id, drawn over its own ``round`` axis.

All calls happen on one daemon thread, in order. So neither a slow import, a dead server nor a hang
inside wandb delays a round; the first failure leaves one note and turns the mirror off.

``tracker.json`` in the run folder is the cursor: the last round that W&B took. A resumed run (or
``ffalora sync``) logs every round again and those up to the cursor are left out. Online, W&B's own
summary counts instead, since what a killed process had queued never arrived.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.errors import one_line
from ffalora_cli.config.schema import TrackingConfig
from ffalora_cli.records.files import read_json, to_json, write_whole
from ffalora_cli.records.trackers.base import RunFacts
from ffalora_cli.types import RoundRecord

if TYPE_CHECKING:
    import wandb

INIT_SECONDS = 30.0
FINISH_SECONDS = 60.0
CURSOR = "tracker.json"


class WandbTracker:
    """Mirrors to W&B, online or offline. ``WANDB_MODE`` in the environment wins over the config."""

    def __init__(self, config: TrackingConfig) -> None:
        self._config = config
        self._facts: RunFacts | None = None
        self._run: wandb.Run | None = None
        self._folder = ""  # of the W&B files, inside the run folder
        self._cursor = -1  # last round that W&B took
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._notes: list[str] = []
        self._thread = threading.Thread(target=self._work, name="wandb-mirror", daemon=True)
        self._dead = threading.Event()

    @property
    def url(self) -> str | None:
        """The run's page; None offline and until W&B has answered."""
        return self._run.url if self._run is not None else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What did not work."""
        return tuple(self._notes)

    def start(self, facts: RunFacts) -> None:
        """Begin in the background; rounds logged meanwhile are kept in order."""
        self._facts = facts
        self._thread.start()
        self._jobs.put(self._init)

    def log(self, record: RoundRecord) -> None:
        """Mirror a round's metrics over ``round``."""
        if self._facts is None or self._dead.is_set():
            return
        point = {"round": record.round, **self._facts.released(record.metrics)}
        self._jobs.put(lambda: self._log(point))

    def finish(
        self, summary: Mapping[str, Any] | None, exit_code: int = 0, seconds: float | None = None
    ) -> None:
        """Send the summary and wait until W&B has everything, ``FINISH_SECONDS`` at most."""
        if self._facts is None:
            return
        limit = FINISH_SECONDS if seconds is None else seconds
        values = _summary_values(summary or {}, self._facts)
        self._jobs.put(lambda: self._started.summary.update(values))
        self._jobs.put(lambda: self._started.finish(exit_code=exit_code))
        self._jobs.put(None)
        self._thread.join(limit)
        if self._thread.is_alive():
            self._give_up(f"not finished after {limit:g} s")
        elif self._run is not None and self._run.offline and not self._dead.is_set():
            self._notes.append(f"W&B was offline; upload with: wandb sync {self._folder}")

    @property
    def _started(self) -> wandb.Run:
        assert self._run is not None  # the first job made it, or the worker has ended
        return self._run

    def _log(self, point: Mapping[str, Any]) -> None:
        if point["round"] <= self._cursor:
            return
        self._started.log(dict(point))
        self._cursor = point["round"]
        write_whole(self._cursor_file, to_json({"round": self._cursor}))

    @property
    def _cursor_file(self) -> Path:
        assert self._facts is not None
        return self._facts.folder / CURSOR

    def _find_cursor(self, run: wandb.Run) -> int:
        """The last round W&B has of this run; -1 for none."""
        if not run.offline:
            return int(run.summary.get("round", -1)) if run.resumed else -1
        if not self._cursor_file.exists():
            return -1
        return int(read_json(self._cursor_file)["round"])

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._dead.is_set():
                return
            try:
                job()
            except BaseException as error:  # wandb raises SystemExit and its own in some versions
                self._give_up(str(error) or type(error).__name__)
                return

    def _give_up(self, reason: str) -> None:
        if not self._dead.is_set():
            self._dead.set()
            first_line = one_line(reason.strip().splitlines()[0])[:160]  # it may quote a key
            self._notes.append(f"W&B mirror off: {first_line}; the local records are complete")

    def _init(self) -> None:
        import wandb

        assert self._facts is not None
        facts, config = self._facts, self._config
        mode: Any = os.environ.get("WANDB_MODE") or config.mode
        wandb.setup(wandb.Settings(silent=True))  # only cli speaks to the user
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            raise RuntimeError("no API key; run `wandb login` or set tracking.mode=offline")
        run = wandb.init(
            project=config.project,
            entity=config.entity,
            mode=mode,
            id=facts.id,
            name=facts.name,
            group=config.group or facts.group,
            tags=[*facts.tags, *config.tags],
            # Paths say more about the user's machine than about the run.
            config={key: value for key, value in facts.config.items() if key != "paths"},
            dir=str(facts.folder),
            resume="allow" if mode == "online" else None,
            reinit="create_new",  # never return another job's run, as the default does
            settings=wandb.Settings(
                silent=True,
                console="off",  # the display shows private metrics, and is none of W&B's business
                init_timeout=INIT_SECONDS,
                finish_timeout=FINISH_SECONDS,  # also bounds wandb's own wait at exit
                finish_timeout_raises=True,
            ),
        )
        run.define_metric("round", hidden=True)
        run.define_metric("*", step_metric="round")
        self._folder = run.settings.sync_dir
        self._cursor = self._find_cursor(run)
        self._run = run


def _summary_values(summary: Mapping[str, Any], facts: RunFacts) -> dict[str, Any]:
    """Scalars of the summary; last metrics under their own names, the best round as ``best/*``."""
    values = {key: value for key, value in summary.items() if _scalar(value)}
    values.update({f"best/{key}": value for key, value in (summary.get("best") or {}).items()})
    headline = summary.get("headline")
    if headline is not None and not facts.released({headline: None}):
        values.pop("value", None)
        values.pop("best/value", None)
    values.update(summary.get("final") or {})
    return facts.released(values)


def _scalar(value: object) -> bool:
    return isinstance(value, str | int | float)


TRACKER = WandbTracker
