"""Tells how far a run got and whether somebody is at it, from its folder alone."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ffalora_cli.config.errors import ConfigError, RunFailed, one_line
from ffalora_cli.config.secrets import redact
from ffalora_cli.records.files import read_json, to_json, write_whole
from ffalora_cli.records.lock import check_unlocked
from ffalora_cli.records.run_directory import FAILED, ROUNDS, SCHEMA_VERSION, SUMMARY

State = Literal["done", "running", "failed", "stopped"]
STATES: tuple[State, ...] = ("done", "running", "failed", "stopped")


@dataclass(frozen=True)
class Progress:
    """State of a run's folder, and when something was last written there."""

    state: State
    touched: float  # seconds since the epoch


def progress_of(folder: Path) -> Progress:
    """State of a run: it has its result, somebody holds its lock, it failed, or none of these."""
    times = {name: _modified(folder / name) for name in (SUMMARY, ROUNDS, FAILED)}
    touched = max(*times.values(), _modified(folder))
    if times[SUMMARY]:
        return Progress("done", touched)
    try:
        check_unlocked(folder)
    except ConfigError:
        return Progress("running", touched)
    return Progress("failed" if times[FAILED] else "stopped", touched)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


@dataclass(frozen=True)
class Failure:
    """What ended a run that was to go on."""

    round: int  # the last one on disk
    reason: str  # one line


def write_failure(folder: Path, round: int, error: Exception) -> None:
    """Say in a run's folder that it failed; where even that cannot be written, nothing is said."""
    first = (str(error).strip().splitlines() or [""])[0]
    reason = first if isinstance(error, RunFailed) else f"{type(error).__name__}: {first}"
    content = {"schema_version": SCHEMA_VERSION, "round": round, "reason": redact(one_line(reason))}
    with contextlib.suppress(OSError):  # a full disk may be what it failed of
        write_whole(folder / FAILED, to_json(content, indent=2))


def read_failure(folder: Path) -> Failure | None:
    """What the folder says about a failure; None where it says nothing of the kind.

    A damaged file is a failure whose reason is unknown: the rounds beside it are worth as much.
    """
    file = folder / FAILED
    if not file.exists():
        return None
    try:
        content = read_json(file)
        return Failure(int(content["round"]), one_line(str(content["reason"])))
    except (ConfigError, KeyError, TypeError, ValueError, OverflowError):
        return Failure(0, f"unknown, {FAILED} is damaged")


def clear_failure(folder: Path) -> None:
    """The run goes on."""
    (folder / FAILED).unlink(missing_ok=True)
