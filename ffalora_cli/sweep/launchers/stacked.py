"""Trains jobs of one model, task and adapter shape together, as more clients in the stack.

Learning rates, clips, budgets, seeds, partitions and methods may differ (``experiment.together``).
They share this process, so what kills it stops them all; asked again, each goes on by itself.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.errors import ConfigError, RunFailed
from ffalora_cli.config.secrets import redact
from ffalora_cli.stopping import Stopped
from ffalora_cli.sweep.jobs import Ended, OnChange, Stop, SweepJob
from ffalora_cli.types import RoundRecord

if TYPE_CHECKING:
    from ffalora_cli.experiment.together import Outcome

LIBRARY = None


@dataclass(frozen=True)
class Settings:
    """What can be set."""

    n_jobs: int = 8  # most jobs at once; each holds its rows and state in memory


def launch(jobs: Sequence[SweepJob], settings: Settings, on_change: OnChange, stop: Stop) -> None:
    """Play the jobs in this process, those that fit in lockstep."""
    from ffalora_cli.experiment.together import Member, run_together

    def poll() -> None:
        number = stop()
        if number is not None:
            raise Stopped(number)

    logs = [_Log(job, on_change) for job in jobs]
    members = [
        Member(replace(job.checked, command=("ffalora", *job.command.arguments)), log)
        for job, log in zip(jobs, logs, strict=True)
    ]
    for slot, outcome in run_together(members, poll, settings.n_jobs):
        logs[slot].end(outcome)


class _Log:
    """A run's observer: its log has what it says, and a sign of life makes it a running job."""

    def __init__(self, job: SweepJob, on_change: OnChange) -> None:
        self._job = job
        self._on_change = on_change
        self._began: float | None = None

    def note(self, text: str) -> None:
        """Into the log."""
        mode = "w" if self._began is None else "a"  # nothing from before a resume
        if self._began is None:
            self._began = time.monotonic()
            self._on_change(self._job, None)
        with (
            contextlib.suppress(OSError),
            self._job.command.log.open(mode, encoding="utf-8") as log,
        ):
            log.write(f"{redact(text)}\n")  # a full disk ends no run, as on the screen

    def started(self, facts: Mapping[str, Any]) -> None:
        """Into the log."""
        self.note(f"run folder {facts['run_dir']}")

    def round_done(self, record: RoundRecord) -> None:
        """The run folder says more."""

    def finished(self, summary: Mapping[str, Any]) -> None:
        """Into the log."""
        self.note(f"{summary['headline']} {summary['value']}")

    def end(self, outcome: Outcome) -> None:
        """Pass on how the job ended, unless it was stopped before it began."""
        if self._began is None and isinstance(outcome.error, Stopped):
            return
        code, line = _ending(outcome.error)
        for text in () if line is None else (*_trace(outcome.error), f"ffalora: {line}"):
            self.note(text)
        assert self._began is not None  # a run says something before it does anything
        self._on_change(self._job, Ended(code, time.monotonic() - self._began, line))


def _ending(error: BaseException | None) -> tuple[int, str | None]:
    """Exit code and complaint, as of ``ffalora run``."""
    if error is None:
        return 0, None
    if isinstance(error, Stopped):
        return 128 + error.signal, f"stopped by {error}"
    if isinstance(error, ConfigError):
        return 2, str(error)
    first = (str(error).strip().splitlines() or [""])[0]
    known = isinstance(error, RunFailed)
    return 1, f"run failed: {first if known else f'{type(error).__name__}: {first[:120]}'}"


def _trace(error: BaseException | None) -> list[str]:
    """Where an error came from that nobody foresaw."""
    if error is None or isinstance(error, Stopped | ConfigError | RunFailed):
        return []
    return traceback.format_exception(error)
