"""Plays jobs by Ray, on a cluster that is up (``address``) or one started here."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.stopping import SIGNALS
from ffalora_cli.sweep.jobs import Ended, OnChange, Stop, SweepJob
from ffalora_cli.sweep.launchers.process import play
from ffalora_cli.sweep.launchers.remote import follow

LIBRARY = "ray"
PROGRAMS = ()


@dataclass(frozen=True)
class Settings:
    """What can be set."""

    address: str | None = None  # of a cluster, or auto; null: start one on this machine
    num_cpus: float = 1.0  # that Ray sets aside for each job; also its OMP_NUM_THREADS
    num_gpus: float = 0.0  # the same; 0.5 puts two jobs on a GPU


class RayQueue:
    """Takes jobs, as ``remote.follow`` wants it; Ray holds them back until there is room."""

    def __init__(self, settings: Settings) -> None:
        import ray

        self._ray, self._threads = ray, max(1, int(settings.num_cpus))
        self._play = ray.remote(play).options(
            num_cpus=settings.num_cpus, num_gpus=settings.num_gpus, max_retries=0
        )
        self._logs: dict[Any, Path] = {}

    def submit(self, jobs: Sequence[SweepJob]) -> list[Any]:
        """One Ray task a job."""
        handles = [self._play.remote(job.command, None, self._threads) for job in jobs]
        self._logs |= {h: job.command.log for h, job in zip(handles, jobs, strict=True)}
        return handles

    def ended(self, handle: Any) -> Ended | None:
        """How a job ended; a task that Ray lost has failed."""
        if not self._ray.wait([handle], timeout=0)[0]:
            return None
        try:
            result: Ended = self._ray.get(handle)
        except Exception as error:
            return Ended(1, 0.0, " ".join(f"{type(error).__name__}: {error}".split())[:300])
        return result

    def withdraw(self, handles: Sequence[Any]) -> list[Any]:
        """Cancel the tasks that have not begun."""
        waiting = [handle for handle in handles if not self._logs[handle].exists()]
        for handle in waiting:
            self._ray.cancel(handle)
        return waiting


def launch(jobs: Sequence[SweepJob], settings: Settings, on_change: OnChange, stop: Stop) -> None:
    """Play the jobs as Ray tasks; a cluster that was started here ends with the sweep.

    Raises:
        ConfigError: when there is no cluster at the address.
    """
    import ray

    mine = not ray.is_initialized()
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in SIGNALS if main}
    if mine:
        try:
            ray.init(
                address=settings.address,
                include_dashboard=None if settings.address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, ValueError) as error:
            first = (str(error).splitlines() or [""])[0][:100]
            raise ConfigError(
                f"hydra.launcher.address={settings.address}: no Ray cluster there ({first}); "
                "start one with: ray start --head"
            ) from None
    for number, handler in handlers.items():
        signal.signal(number, handler)  # Ray puts its own in their place, which exits at once
    try:
        follow(RayQueue(settings), jobs, on_change, stop)
    finally:
        if mine:
            ray.shutdown()
