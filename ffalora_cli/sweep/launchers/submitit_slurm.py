"""Submits a Slurm job array by submitit; folders must be on a shared file system."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.sweep.jobs import Ended, Note, OnChange, Stop, SweepJob
from ffalora_cli.sweep.launchers.remote import follow
from ffalora_cli.sweep.launchers.submitit_queue import SubmititQueue, executor, outcome

LIBRARY = "submitit"
PROGRAMS = ("sbatch", "srun", "squeue", "scancel")
_NAMES = {"timeout_min": "time", "name": "job_name", "tasks_per_node": "ntasks_per_node"}
_PAUSE = 10.0  # seconds between questions to Slurm; results are files and are seen at once
_SHORT_PAUSE = 2.0  # the same while a person waits for the sweep to stop
_ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"}
_ENDED |= {"OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT", ""}  # "": Slurm has forgotten it


@dataclass(frozen=True)
class Settings:
    """What can be set; null leaves it to the cluster. Names as Hydra's own launcher has them."""

    timeout_min: int = 60  # after which a job is stopped and put back into the queue
    max_num_timeout: int = 10  # turns a job may get after time-outs
    signal_delay_s: int = 120  # before the time-out, for saving
    array_parallelism: int = 256  # jobs of the array that run at once
    name: str = "ffalora"
    nodes: int | None = None
    tasks_per_node: int | None = None  # processes of one run, on every node
    cpus_per_task: int | None = None
    gpus_per_node: int | None = None
    cpus_per_gpu: int | None = None
    gpus_per_task: int | None = None
    mem_gb: float | None = None
    mem_per_gpu: str | None = None
    mem_per_cpu: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodelist: str | None = None
    exclude: str | None = None
    gres: str | None = None
    comment: str | None = None
    setup: list[str] = field(default_factory=list)  # lines of shell before the run
    srun_args: list[str] = field(default_factory=list)
    additional_parameters: dict[str, Any] = field(default_factory=dict)  # of sbatch, by their names

    def __post_init__(self) -> None:
        least = self.signal_delay_s // 60 + 2  # Slurm may signal a minute early
        if self.timeout_min < least:
            raise ConfigError(
                f"hydra.launcher.timeout_min={self.timeout_min} leaves no time to train: a job is "
                f"stopped signal_delay_s={self.signal_delay_s} seconds before, or a minute more; "
                f"give {least} at least"
            )


def parameters(settings: Settings) -> dict[str, Any]:
    """Settings under the names submitit's Slurm executor knows, those left open left out."""
    given = {_NAMES.get(key, key): value for key, value in asdict(settings).items()}
    memory = given.pop("mem_gb")
    given["mem"] = None if memory is None else f"{int(memory * 1024)}MB"
    del given["max_num_timeout"]  # of the executor itself
    return {key: value for key, value in given.items() if value not in (None, [], {})}


class SlurmQueue(SubmititQueue):
    """Takes jobs, and asks ``squeue`` for those that end without a result.

    submitit asks ``sacct``, which not every cluster has, and which knows of a requeue late.
    """

    _before: dict[str, str] | None = None  # states by job id, at the last question but one
    _now: dict[str, str] | None = None
    _asked = float("-inf")

    def ended(self, handle: Any) -> Ended | None:
        """How a job ended; without a result once Slurm has said twice that it is over."""
        if handle.task(0).paths.result_pickle.exists():
            return outcome(handle)
        self._look(_PAUSE)
        if self._before is None or self._now is None:
            return None
        states = [looked.get(handle.job_id, "") for looked in (self._before, self._now)]
        if not _ENDED.issuperset(states):
            return None
        why = states[1] or "it is not in the queue any more"
        printed = handle.task(0).paths.stderr
        return Ended(1, 0.0, f"ended by Slurm: {why}; its output: {printed}"[:300])

    def withdraw(self, handles: Sequence[Any]) -> list[Any]:
        """Cancel those that wait in the queue, for their first or a later turn."""
        if time.monotonic() - self._asked < _SHORT_PAUSE and self._now is not None:
            return []
        arrays = dict.fromkeys(handle.job_id.partition("_")[0] for handle in handles)
        subprocess.run(
            ["scancel", "--quiet", "--state=PENDING", *arrays], check=False, capture_output=True
        )
        self._look(0.0)
        gone = {"CANCELLED", ""}
        return [h for h in handles if self._now and self._now.get(h.job_id, "") in gone]

    def _look(self, pause: float) -> None:
        """Ask for the states of this user's jobs, unless that was done within the pause."""
        if time.monotonic() - self._asked < pause:
            return
        self._asked = time.monotonic()
        command = ["squeue", "--me", "--array", "--noheader", "--states=all", "--format=%i %T"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode == 0:  # else the controller is away: nothing is concluded
            lines = (line.split() for line in answer.stdout.splitlines())
            self._before, self._now = self._now, {words[0]: words[1] for words in lines}


def launch(
    jobs: Sequence[SweepJob], settings: Settings, on_change: OnChange, stop: Stop, note: Note
) -> None:
    """Submit the jobs as one array and follow it."""
    import submitit

    made = executor(submitit.SlurmExecutor, jobs, settings.max_num_timeout, **parameters(settings))
    follow(SlurmQueue(made, settings.cpus_per_task), jobs, on_change, stop)
