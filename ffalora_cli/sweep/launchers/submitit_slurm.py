"""Submits a Slurm job array by submitit; folders must be on a shared file system."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.sweep.jobs import Note, OnChange, Stop, SweepJob
from ffalora_cli.sweep.launchers.remote import follow
from ffalora_cli.sweep.launchers.submitit_queue import SubmititQueue, executor

LIBRARY = "submitit"


@dataclass(frozen=True)
class Settings:
    """What can be set; null leaves it to the cluster. Names as Hydra's own launcher has them."""

    timeout_min: int = 60  # after which a job is stopped and put back into the queue
    max_num_timeout: int = 10  # turns a job may get after time-outs
    cpus_per_task: int | None = None
    gpus_per_node: int | None = None
    mem_gb: float | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    array_parallelism: int = 256  # jobs of the array that run at once
    signal_delay_s: int = 120  # before the time-out, for saving


def parameters(settings: Settings) -> dict[str, Any]:
    """Settings under the names submitit's Slurm executor knows, those left open left out."""
    given = {"job_name": "ffalora", **asdict(settings)}
    given["time"], memory = given.pop("timeout_min"), given.pop("mem_gb")
    given["mem"] = None if memory is None else f"{int(memory * 1024)}MB"
    del given["max_num_timeout"]  # of the executor itself
    return {key: value for key, value in given.items() if value is not None}


def launch(
    jobs: Sequence[SweepJob], settings: Settings, on_change: OnChange, stop: Stop, note: Note
) -> None:
    """Submit the jobs as one array and follow it.

    Raises:
        ConfigError: when this machine has no Slurm.
    """
    import submitit

    if shutil.which("srun") is None or shutil.which("sbatch") is None:
        raise ConfigError(
            "hydra/launcher=submitit_slurm: Slurm's sbatch and srun are not on this machine; "
            "hydra/launcher=submitit_local tries the same here"
        )
    made = executor(submitit.SlurmExecutor, jobs, settings.max_num_timeout, **parameters(settings))
    follow(SubmititQueue(made, settings.cpus_per_task), jobs, on_change, stop)
