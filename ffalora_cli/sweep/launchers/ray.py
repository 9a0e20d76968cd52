"""Plays jobs by Ray, on a cluster that is up (``address``) or one started here."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ffalora_cli.config.errors import ConfigError, brief
from ffalora_cli.sweep.jobs import Ended, Note, OnChange, Stop, SweepJob
from ffalora_cli.sweep.launchers.gpus import may_use_gpu
from ffalora_cli.sweep.launchers.process import PYTHON, die_with_parent
from ffalora_cli.sweep.launchers.remote import follow

LIBRARY = "ray"
PROGRAMS = ()
_LOCAL = "local"  # Ray's word for a cluster of one's own
_PATIENCE = {True: 120.0, False: 20.0}  # seconds until a cluster is up: our own, another's
_LEAVE = 15.0  # seconds until it is left


@dataclass(frozen=True)
class Settings:
    """What can be set."""

    address: str | None = None  # of a cluster, or auto; null: RAY_ADDRESS, else one started here
    num_cpus: float = 1.0  # that Ray sets aside for each job; also its OMP_NUM_THREADS
    num_gpus: float | None = None  # the same, 0.5 puts two jobs on one; null: 1 where there are any


class Driver:
    """The process that talks to Ray, as a queue for ``remote.follow``; handles are job numbers.

    Args:
        settings: of the launcher.
        log: takes what Ray prints.
        note: is told of jobs that Ray lost.
    """

    def __init__(self, settings: Settings, log: Path, note: Note) -> None:
        self._settings, self._log, self._note = settings, log, note
        self.address = settings.address or os.environ.get("RAY_ADDRESS") or _LOCAL
        self.nodes: list[dict[str, float]] | None = None  # resources of each, once it is up
        self.resources: dict[str, float] = {}  # of each job
        self._logs: dict[int, Path] = {}  # a job has begun when its log is there
        self._ended: dict[int, Ended] = {}
        self._gone: Ended | None = None  # how every job ended once the driver has
        self._heard: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [*PYTHON, "-m", "ffalora_cli.sweep.launchers.ray_driver", self.address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        assert self._process.stdin and self._process.stdout
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the cluster, if need be by force."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        try:
            self._process.wait(_LEAVE if self.nodes is not None else 0)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def up(self, stop: Stop) -> bool:
        """Wait for the cluster; whether it is there, or a stop came first.

        Raises:
            ConfigError: it is not there, or does not answer.
        """
        deadline = time.monotonic() + _PATIENCE[self.address == _LOCAL]
        while self.nodes is None:
            if stop() is not None:
                return False
            if time.monotonic() > deadline:
                raise self._absent("it does not answer")
            self._listen(0.1)
        return True

    def submit(self, jobs: Sequence[SweepJob]) -> list[int]:
        """One Ray task a job."""
        for job in jobs:
            command = job.command
            self._logs[job.number] = command.log
            self._write(
                submit=job.number,
                arguments=command.arguments,
                folder=str(command.folder),
                log=str(command.log),
                stop_file=str(command.stop_file),
                threads=max(1, int(self._settings.num_cpus)),
                gpus="" if self._settings.num_gpus == 0 else None,
                resources=self.resources,
            )
        return [job.number for job in jobs]

    def ended(self, handle: int) -> Ended | None:
        """How a job ended."""
        self._listen(0.0)
        return self._ended.get(handle, self._gone)

    def withdraw(self, handles: Sequence[int]) -> list[int]:
        """Cancel the tasks that have not begun; or not again, since Ray lost them."""
        waiting = [handle for handle in handles if not self._logs[handle].exists()]
        for handle in waiting:
            self._write(withdraw=handle)
        return waiting

    def _write(self, **line: Any) -> None:
        with contextlib.suppress(OSError):  # it is gone, which is heard of
            print(json.dumps(line), file=self._stdin, flush=True)

    def _read(self) -> None:
        for line in self._stdout:
            self._heard.put(json.loads(line))
        self._heard.put({"gone": True})

    def _listen(self, seconds: float) -> None:
        """Take in what the driver told, waiting so long for it to begin with."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._hear(self._heard.get(timeout=seconds))
                seconds = 0.0

    def _hear(self, told: Mapping[str, Any]) -> None:
        if "nodes" in told:
            self.nodes = told["nodes"]
        elif "failed" in told:
            raise self._absent(told["failed"])
        elif "lost" in told:
            self._note(f"job {told['lost']} goes on elsewhere: Ray lost it ({told['why'][:120]})")
        elif "ended" in told:
            self._ended[told["ended"]] = Ended(**told["how"])
        elif self.nodes is None:
            raise self._absent(f"Ray ended without a word; {self._log}")
        else:
            text = f"the connection to Ray is lost; what it said is in {self._log}"
            self._gone = Ended(1, 0.0, text)

    def _absent(self, why: str) -> ConfigError:
        if self.address == _LOCAL:
            printed = f"; what Ray printed is in {self._log}" if self._log.stat().st_size else ""
            return ConfigError(
                f"hydra/launcher=ray: no cluster could be started here ({why[:100]}){printed}"
            )
        key = "hydra.launcher.address" if self._settings.address else "RAY_ADDRESS"
        return ConfigError(
            f"{key}={brief(self.address)}: no Ray cluster there ({why[:100]}); "
            "start one with: ray start --head"
        )


def launch(
    jobs: Sequence[SweepJob], settings: Settings, on_change: OnChange, stop: Stop, note: Note
) -> None:
    """Play the jobs as Ray tasks; a cluster that was started here ends with the sweep.

    Raises:
        ConfigError: when there is no cluster at the address, or one of our own has no room.
    """
    log = jobs[0].command.log.parent.parent / "ray.log"
    with Driver(settings, log, note) as driver:
        if driver.up(stop):
            driver.resources = _resources(jobs, settings, driver, note)
            note(f"what Ray prints is in {log}")
            follow(driver, jobs, on_change, stop)


def _resources(
    jobs: Sequence[SweepJob], settings: Settings, driver: Driver, note: Note
) -> dict[str, float]:
    """What Ray sets aside for each job; says when that hides GPUs, or no node has as much."""
    nodes = driver.nodes or []
    there = sum(node.get("GPU", 0.0) for node in nodes)
    usable = there > 0 and any(map(may_use_gpu, jobs))
    gpus = float(usable) if settings.num_gpus is None else settings.num_gpus
    if usable and gpus == 0:
        note(f"hydra.launcher.num_gpus=0: jobs see none of Ray's {there:g} GPU(s), and use CPUs")
    wanted = {"CPU": settings.num_cpus, "GPU": gpus}
    if not any(all(node.get(k, 0.0) >= v for k, v in wanted.items()) for node in nodes):
        sizes = ", ".join(f"{n.get('CPU', 0):g} and {n.get('GPU', 0):g}" for n in nodes[:5])
        text = (
            f"hydra.launcher.num_cpus={settings.num_cpus:g}, num_gpus={gpus:g}: no node of the Ray "
            f"cluster has as many (CPUs and GPUs: {sizes})"
        )
        if driver.address == _LOCAL:
            raise ConfigError(f"{text}; ask for less")
        note(f"{text}; jobs wait for one that has")
    return {"num_cpus": settings.num_cpus, "num_gpus": gpus}
