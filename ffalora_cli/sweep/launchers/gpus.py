"""Lends the GPUs of this machine to jobs side by side: each has its own while there are some."""

from __future__ import annotations

import functools
import os
import subprocess
import threading
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.sweep.jobs import Note, SweepJob
from ffalora_cli.sweep.launchers.process import PYTHON

VISIBLE = "CUDA_VISIBLE_DEVICES"
_DRIVERS = ("nvidia[0-9]*", "kfd", "dxg")  # in /dev: CUDA, ROCm, CUDA in WSL
_COUNT = "import torch; print(torch.cuda.device_count())"


class Gpus:
    """The GPUs that jobs would all see, lent to them one by one.

    Args:
        jobs: that may ask for some.
        each: GPUs a job gets; 0 lends none.

    Raises:
        ConfigError: fewer are here than one job should get.
    """

    def __init__(self, jobs: Sequence[SweepJob], each: int = 1) -> None:
        self.names = visible() if each and any(map(may_use_gpu, jobs)) else []
        if 0 < len(self.names) < each:
            raise ConfigError(
                f"hydra.launcher.gpus_per_node={each}: {len(self.names)} GPU(s) are visible here; "
                f"set it to {len(self.names)} or less"
            )
        self._each = each
        self._lent: dict[int, list[str]] = {}
        self._lock = threading.Lock()

    @property
    def room(self) -> int | None:
        """Jobs at once that have GPUs of their own; None without any GPU."""
        return len(self.names) // self._each if self.names else None

    def say_if_shared(self, at_once: int, key: str, note: Note) -> None:
        """One line when so many jobs at once cannot have GPUs of their own."""
        if self.room is not None and at_once > self.room:
            note(
                f"{at_once} jobs at once share {len(self.names)} GPU(s); "
                f"hydra.launcher.{key}={self.room} gives each its own"
            )

    def lend(self, job: SweepJob) -> str | None:
        """``CUDA_VISIBLE_DEVICES`` for a job: the GPUs with the fewest others on them.

        All of them for a job with a GPU of its own choice (``engine.device=cuda:1``), which counts
        among them; None where there is nothing to lend.
        """
        if not self.names or not may_use_gpu(job):
            return None
        _, _, index = job.checked.config.engine.device.partition(":")
        with self._lock:
            if index:
                self._lent[job.number] = self.names[int(index) :][:1]
                return ",".join(self.names)
            taken = [name for names in self._lent.values() for name in names]
            self._lent[job.number] = sorted(self.names, key=taken.count)[: self._each]
            return ",".join(self._lent[job.number])

    def take_back(self, job: SweepJob) -> None:
        """The job has ended."""
        with self._lock:
            self._lent.pop(job.number, None)


def may_use_gpu(job: SweepJob) -> bool:
    """Whether a job runs on a GPU where it sees one."""
    return job.checked.config.engine.device != "cpu"


def visible() -> list[str]:
    """The GPUs a process started here sees, as ``CUDA_VISIBLE_DEVICES`` would name them."""
    typed = os.environ.get(VISIBLE)
    if typed is None:
        return [str(number) for number in range(_counted())]
    names = (name.strip() for name in typed.split(","))
    return list(takewhile(lambda name: name not in ("", "-1"), names))  # CUDA stops there, too


@functools.cache
def _counted() -> int:
    """What torch counts, asked in a process of its own: this one does without torch."""
    if not any(found for name in _DRIVERS for found in Path("/dev").glob(name)):
        return 0
    asked = subprocess.run(
        [*PYTHON, "-c", _COUNT], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    return int(asked.stdout) if asked.returncode == 0 else 0
