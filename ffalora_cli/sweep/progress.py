"""Reads how far jobs are from the run folders that their processes write."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.methods.registry import headline
from ffalora_cli.records.files import read_json
from ffalora_cli.records.run_directory import ROUNDS, SUMMARY
from ffalora_cli.sweep.jobs import GOOD, RUNNING, WAITING, Status, SweepJob

_TAIL = 65_536  # bytes at the end of rounds.jsonl: the last rounds, however long the run


@dataclass(frozen=True)
class Progress:
    """Where the run of a job is."""

    round: int | None = None  # None: no round is on disk
    value: float | None = None  # headline metric, last seen
    remaining: float | None = None  # seconds to its end at the pace since it began or was resumed


def result(path: Path) -> Mapping[str, Any]:
    """The summary of a finished run; empty where it cannot be read."""
    try:
        return read_json(path / SUMMARY)
    except ConfigError:
        return {}


class Watcher:
    """Reads on where it looked last, so that it knows the pace of each job."""

    def __init__(self) -> None:
        self._first: dict[int, tuple[float, int]] = {}  # time and round of the first look
        self._last: dict[int, tuple[float, Progress]] = {}  # and of the last new round

    def look(self, job: SweepJob, now: float | None = None) -> Progress:
        """How far a running job is."""
        now = time.monotonic() if now is None else now
        round_, value = _newest(job.path / ROUNDS, headline(job.checked.config))
        if round_ is None:
            return Progress()
        begun, first = self._first.setdefault(job.number, (now, round_))
        seen, last = self._last.get(job.number, (now, Progress()))
        if last.round != round_:
            seen = now
        value = last.value if value is None else value
        remaining = None
        if round_ > first:
            left = job.checked.config.federation.rounds - round_
            pace = (seen - begun) / (round_ - first)
            remaining = max(0.0, left * pace - (now - seen))
        progress = Progress(round_, value, remaining)
        self._last[job.number] = (seen, progress)
        return progress


def total_remaining(
    jobs: Sequence[SweepJob], statuses: Mapping[int, Status], progress: Mapping[int, Progress]
) -> float | None:
    """Seconds to the end of all jobs, if those that wait take as long as those seen so far.

    None before any job was timed.
    """
    timed = [s.ended.seconds for s in statuses.values() if s.state in GOOD and s.ended]
    running = [j for j in jobs if statuses[j.number].state == RUNNING]
    for job in running:
        seen = progress.get(job.number, Progress())
        if seen.remaining is not None and seen.round:
            rounds = job.checked.config.federation.rounds
            timed.append(seen.remaining * rounds / max(1, rounds - seen.round))
    if not timed:
        return None
    usual = sum(timed) / len(timed)
    left = [progress.get(j.number, Progress()).remaining for j in running]
    work = sum(usual if seconds is None else seconds for seconds in left)
    work += usual * sum(s.state == WAITING for s in statuses.values())
    return work / max(1, len(running))


def _newest(file: Path, metric: str) -> tuple[int | None, float | None]:
    """The last round on disk, and the metric's last value among the last lines."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - _TAIL))
            *complete, _ = stream.read().split(b"\n")
    except OSError:
        return None, None
    newest: int | None = None
    for line in reversed(complete):
        try:
            row = json.loads(line)
            newest = int(row["round"]) if newest is None else newest
            value = row["metrics"].get(metric)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # the first may begin in the middle of a line
        if value is not None:
            return newest, float(value)
    return newest, None
