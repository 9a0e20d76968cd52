"""Plays a list of jobs through a launcher: skips what is done, records what happens."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from typing import Protocol

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.stopping import StopFlag, Stopped
from ffalora_cli.sweep.jobs import ALREADY, FAILED, Ended, Status, SweepJob, status_of
from ffalora_cli.sweep.launchers.base import Launch
from ffalora_cli.sweep.record import SweepRecord


class SweepObserver(Protocol):
    """Receives status changes; called from any thread, never concurrently; notes at any time."""

    def changed(self, job: SweepJob, status: Status) -> None:
        """The job's status changed; it is recorded already."""

    def note(self, text: str) -> None:
        """Something about where jobs run that the user should know."""


def play_jobs(
    jobs: Sequence[SweepJob],
    record: SweepRecord,
    launch: Launch,
    observer: SweepObserver,
    stop: StopFlag,
    fail_fast: bool = False,
) -> dict[int, Status]:
    """Play every job that is not done yet.

    Args:
        jobs: checked, each with a run folder of its own.
        record: of the sweep.
        launch: of a launcher, with its settings.
        observer: is told of every change.
        stop: requested by signals; running jobs are sent the same one. Not raised from here: the
            caller polls it once everything is recorded.
        fail_fast: stop the jobs that run, and start no other, once one has failed.

    Returns:
        The last status of each job, by number.

    Raises:
        ConfigError: of the launcher: nothing began, and a new record is gone again.
    """
    statuses = {job.number: Status() for job in jobs}
    lock, broken = threading.Lock(), threading.Event()

    def set_status(job: SweepJob, status: Status) -> None:
        with lock:
            statuses[job.number] = status
            record.changed(job, status)
            observer.changed(job, status)
            if fail_fast and status.state == FAILED:
                broken.set()

    def asked() -> int | None:
        try:
            stop.poll()
        except Stopped as stopped:
            return stopped.signal
        return signal.SIGTERM if broken.is_set() else None

    def on_change(job: SweepJob, ended: Ended | None) -> None:
        set_status(job, status_of(ended))

    missing = []
    for job in jobs:
        if job.finished:
            set_status(job, Status(ALREADY))
        else:
            job.command.log.unlink(missing_ok=True)  # from before; turns of one job add to it
            missing.append(job)
    try:
        if missing and asked() is None:
            launch(missing, on_change, asked, observer.note)
    except ConfigError as error:
        if str(record.path) not in str(error):  # else it names a log there
            record.forget()
        raise
    finally:
        record.stop_file.unlink(missing_ok=True)
    return statuses
