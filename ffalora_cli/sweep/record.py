"""Records a sweep on disk: what it is made of, and what became of each job.

``<paths.runs>/sweeps/<digest of its jobs>/``

| file             | holds                                                                     |
| ---------------- | ------------------------------------------------------------------------- |
| sweep.json       | command, grid, launcher, and signature, overrides and folder of every job |
| jobs.jsonl       | a line for every change: job, state, exit code, error, seconds; it grows  |
| logs/            | what each job printed when last started                                   |
| ray.log          | of a sweep on Ray: what Ray printed                                       |
| trials.log       | of a search: proposals and results, in Optuna's own journal               |

The runs themselves are where they always are; a sweep is done when they are.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.job import Job
from ffalora_cli.config.signature import digest
from ffalora_cli.records.files import append, read_json, read_json_lines, to_json, write_whole
from ffalora_cli.sweep.jobs import ALREADY, Command, Status, SweepJob, short_keys

SCHEMA_VERSION = 1
SWEEPS, SWEEP, JOBS, LOGS = "sweeps", "sweep.json", "jobs.jsonl", "logs"


def sweep_digest(checked: Sequence[Job]) -> str:
    """Twelve hex digits: the same jobs, the same sweep."""
    return digest([job_key(job) for job in checked])


def job_key(job: Job) -> str:
    """What tells a job from others: its signature, and its name where a person gave it one.

    Else the name that runs had before they were named by what is typed, so that their sweeps go on.
    """
    config = job.config
    former = f"{config.task.name}-{config.model.name}-{config.method.name}"
    return f"{config.name if job.named else former}-{job.signature}"


class SweepRecord:
    """The folder of one sweep.

    Args:
        runs: folder of all runs.
        name: of the sweep's folder.

    Raises:
        ConfigError: when it cannot be made.
    """

    def __init__(self, runs: str | Path, name: str) -> None:
        self.path = Path(runs).expanduser().absolute() / SWEEPS / name
        # Of this process alone: another one, beside or after it, is not asked to stop.
        self.stop_file = self.path / f".stop-{uuid.uuid4().hex}"
        logs = self.path / LOGS
        self._made = [folder for folder in (logs, *logs.parents) if not folder.exists()]
        try:
            logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"paths.runs: {self.path} cannot be made ({error.strerror}); "
                "set paths.runs to a folder you can write to"
            ) from None

    def job(self, number: int, checked: Job, varying: Mapping[str, str]) -> SweepJob:
        """A job with its slot in this record; ``varying`` is what it differs in, by key."""
        log = self.path / LOGS / f"{number:03d}-{checked.signature}.log"
        command = Command(("run", *checked.overrides), Path.cwd(), log, self.stop_file)
        return SweepJob(number, checked, short_keys(varying), command)

    def write(self, facts: Mapping[str, Any], jobs: Sequence[SweepJob]) -> None:
        """Write ``sweep.json``: the facts, and one entry a job."""
        entries = [
            {
                "number": job.number,
                "signature": job.checked.signature,
                "overrides": job.checked.overrides,
                "run_dir": job.path,
            }
            for job in jobs
        ]
        content = {"schema_version": SCHEMA_VERSION, **facts, "jobs": entries}
        write_whole(self.path / SWEEP, to_json(content, indent=2))

    def folders(self) -> list[Path]:
        """Run folders of the jobs, as ``write`` noted them.

        Raises:
            ConfigError: ``sweep.json`` is damaged.
        """
        file = self.path / SWEEP
        try:
            return [Path(job["run_dir"]) for job in read_json(file)["jobs"]]
        except (KeyError, TypeError):
            raise ConfigError(
                f"{file}: damaged, it names no jobs; move {self.path} away to search anew"
            ) from None

    def changed(self, job: SweepJob, status: Status) -> None:
        """Append what became of a job; on disk when this returns."""
        line: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "sitting": os.getpid(),
            "number": job.number,
            "signature": job.checked.signature,
            "state": status.state,
            "run_dir": job.path,
        }
        if status.ended is not None:
            line |= {
                "exit_code": status.ended.code,
                "error": status.ended.error,
                "seconds": round(status.ended.seconds, 3),
            }
        append(self.path / JOBS, to_json(line))

    def history(self) -> list[dict[str, Any]]:
        """Every change so far, of all resumes."""
        return read_json_lines(self.path / JOBS)[0]

    def forget(self) -> None:
        """Leave nothing of a sweep that is new and of which no job has begun."""
        if self.path in self._made and all(line["state"] == ALREADY for line in self.history()):
            shutil.rmtree(self.path)
            with contextlib.suppress(OSError):  # another sweep began beside it
                for folder in self._made[2:]:
                    folder.rmdir()
