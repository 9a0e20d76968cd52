"""One job after another, on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ffalora_cli.sweep.jobs import OnChange, Stop, SweepJob
from ffalora_cli.sweep.process import play

LIBRARY = None


@dataclass(frozen=True)
class Settings:
    """Nothing to set."""


def launch(jobs: Sequence[SweepJob], settings: Settings, on_change: OnChange, stop: Stop) -> None:
    """Play the jobs in turn."""
    for job in jobs:
        if stop() is not None:
            return
        on_change(job, None)
        on_change(job, play(job.command, stop))
