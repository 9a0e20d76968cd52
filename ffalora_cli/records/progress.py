"""Tells how far a run got and whether somebody is at it, from its folder alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.records.lock import check_unlocked
from ffalora_cli.records.run_directory import FAILED, ROUNDS, SUMMARY

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
