"""Defines one job of a sweep, what it takes to play it anywhere, and how it can end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ffalora_cli.config.job import Job
from ffalora_cli.records.run_directory import SUMMARY, run_folder
from ffalora_cli.stopping import SIGNALS

WAITING, RUNNING, DONE, ALREADY = "waiting", "running", "done", "already done"
FAILED, BUSY, STOPPED = "failed", "busy", "stopped"
GOOD = (DONE, ALREADY)

Stop = Callable[[], int | None]
"""The signal by which everything was asked to stop, or None."""


@dataclass(frozen=True)
class Command:
    """``ffalora run`` of one job as a process of its own; plain values, to be sent anywhere.

    Attributes:
        arguments: after ``python -m ffalora_cli``.
        folder: working directory, so that relative paths mean the same everywhere.
        log: file that takes what the process prints.
        stop_file: holds the number of a signal once everything is asked to stop; for processes
            on other machines, which share the file system and nothing else.
    """

    arguments: tuple[str, ...]
    folder: Path
    log: Path
    stop_file: Path


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep."""

    number: int  # from 1
    checked: Job
    varying: Mapping[str, str]  # the overrides in which it differs from the others, by short key
    command: Command

    @property
    def path(self) -> Path:
        """Its run folder."""
        return run_folder(self.checked)

    @property
    def label(self) -> str:
        """What varies, as one text."""
        return " ".join(f"{key}={value}" for key, value in self.varying.items())

    @property
    def finished(self) -> bool:
        """Whether its run has a summary, from this sweep or from anywhere."""
        return (self.path / SUMMARY).exists()


@dataclass(frozen=True)
class Ended:
    """How the process of a job ended."""

    code: int
    seconds: float
    error: str | None = None  # its last complaint, one line


@dataclass(frozen=True)
class Status:
    """Where a job stands."""

    state: str = WAITING
    ended: Ended | None = None


OnChange = Callable[[SweepJob, Ended | None], None]
"""Told by launchers: ``None`` when a job starts, and once how it ended."""

Note = Callable[[str], None]
"""Takes one line that the user should read."""


def status_of(ended: Ended | None) -> Status:
    """The state that an exit code and a complaint amount to."""
    if ended is None:
        return Status(RUNNING)
    if ended.code == 0:
        return Status(DONE, ended)
    if ended.code - 128 in SIGNALS:
        return Status(STOPPED, ended)
    if "another process is writing this run" in (ended.error or ""):
        return Status(BUSY, ended)
    return Status(FAILED, ended)


def once_each(checked: Sequence[Job]) -> list[Job]:
    """The jobs without those whose signature came before: the same run is played once."""
    first: dict[str, Job] = {}
    for job in checked:
        first.setdefault(job.signature, job)
    return list(first.values())


def grid(checked: Sequence[Job]) -> dict[str, list[str]]:
    """Keys in which jobs differ, with their values in the order they appear."""
    values: dict[str, list[str]] = {}
    for job in checked:
        for key, value in settings(job).items():
            if value not in values.setdefault(key, []):
                values[key].append(value)
    return {key: found for key, found in values.items() if len(found) > 1}


def settings(job: Job) -> Mapping[str, str]:
    """The overrides of a job by key."""
    return dict(text.split("=", 1) for text in job.overrides)  # type: ignore[misc]


def short_keys(values: Mapping[str, str]) -> dict[str, str]:
    """Settings by key without its section, where that is clear."""
    short = [key.rsplit(".", 1)[-1] for key in values]
    return {
        name if short.count(name) == 1 else key: value
        for name, (key, value) in zip(short, values.items(), strict=True)
    }
