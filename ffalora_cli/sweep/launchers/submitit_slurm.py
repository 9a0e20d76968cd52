"""Submits a Slurm job array by submitit; folders must be on a shared file system."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.sweep.jobs import OnChange, Stop, SweepJob
from ffalora_cli.sweep.launchers.process import PYTHON
from ffalora_cli.sweep.launchers.remote import follow
from ffalora_cli.sweep.launchers.submitit_queue import SubmititQueue

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
    given = {
        "job_name": "ffalora",
        "time": settings.timeout_min,
        "cpus_per_task": settings.cpus_per_task,
        "gpus_per_node": settings.gpus_per_node,
        "mem": None if settings.mem_gb is None else f"{int(settings.mem_gb * 1024)}MB",
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "array_parallelism": settings.array_parallelism,
        "signal_delay_s": settings.signal_delay_s,
    }
    return {key: value for key, value in given.items() if value is not None}


def launch(jobs: Sequence[SweepJob], settings: Settings, on_change: OnChange, stop: Stop) -> None:
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
    folder = jobs[0].command.log.parent.parent / "submitit"
    executor = submitit.SlurmExecutor(
        folder, max_num_timeout=settings.max_num_timeout, python=shlex.join(PYTHON)
    )
    executor.update_parameters(**parameters(settings))
    follow(SubmititQueue(executor, settings.cpus_per_task), jobs, on_change, stop)
