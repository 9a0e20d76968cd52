"""A Slurm for tests, and jobs for it that take no time: stand-ins for ``ffalora run``."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ffalora_cli.sweep.jobs import Ended, SweepJob
from ffalora_cli.sweep.launchers.base import open_launcher
from tests import ROOT
from tests.sweep.cases import sweep_of

INSTALLED = all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch")))
_SCRIPT = str(ROOT / "scripts/chaos/slurm.sh")

# Found before the real package, which it is but for ``python -m ffalora_cli CODE [SECONDS]``: that
# ends with a code after so many seconds, and on a signal says "saved", as a run does.
_STAND_IN = """
import os, signal, sys, time

def leave(number, frame):
    time.sleep(0.3)
    print("saved", os.environ.get("RANK"), flush=True)
    os._exit(128 + number)

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, leave)
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
if "RANK" in os.environ:
    print(*(os.environ[name] for name in names), flush=True)
print("turn", os.environ.get("SLURM_RESTART_COUNT", "0"), flush=True)
code, seconds = map(int, sys.argv[1:])
time.sleep(seconds if "SLURM_RESTART_COUNT" not in os.environ else 0)
if code:
    print("ffalora: it is broken", flush=True)
sys.exit(code)
"""


@contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """A Slurm that is up, its client programs told where it is."""
    subprocess.run([_SCRIPT, "start", folder], check=True, timeout=60, stdout=subprocess.DEVNULL)
    before = dict(os.environ)
    fake = folder / "stand-in" / "ffalora_cli"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text(f"__path__.append({str(ROOT / 'ffalora_cli')!r})\n")
    (fake / "__main__.py").write_text(_STAND_IN)
    os.environ |= {"SLURM_CONF": str(folder / "slurm.conf"), "STAND_IN": str(fake.parent)}
    try:
        yield
    finally:
        subprocess.run([_SCRIPT, "stop", folder], check=True, timeout=60)
        os.environ.clear()
        os.environ.update(before)


def said(*command: str) -> str:
    """What a program prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Played:
    """Jobs in a thread of the launcher, with what is told of them.

    Args:
        folder: for the record.
        typed: settings of the launcher.
        works: exit code and seconds of each job.
    """

    def __init__(self, folder: Path, typed: dict[str, str], *works: tuple[int, int]) -> None:
        record, jobs = sweep_of(folder, f"seed={','.join(map(str, range(len(works))))}")
        record.write({}, jobs)
        commands = [
            replace(job.command, arguments=(str(code), str(seconds)), folder=folder)
            for job, (code, seconds) in zip(jobs, works, strict=True)
        ]
        self.jobs = [replace(j, command=c) for j, c in zip(jobs, commands, strict=True)]
        self.begun: list[int] = []
        self.ends: dict[int, Ended] = {}
        self.asked: int | None = None
        setup = [f"export PYTHONPATH={os.environ['STAND_IN']}"]
        self._launch = open_launcher("submitit_slurm", {"setup": str(setup), **typed})
        self._thread = threading.Thread(target=self._play)
        self._thread.start()

    def _play(self) -> None:
        self._launch(self.jobs, self._changed, lambda: self.asked, lambda text: None)

    def _changed(self, job: SweepJob, ended: Ended | None) -> None:
        if ended is None:
            self.begun.append(job.number)
        else:
            self.ends[job.number] = ended

    def log(self, number: int) -> list[str]:
        """What a job printed."""
        file = self.jobs[number - 1].command.log
        return file.read_text().split("\n")[:-1] if file.exists() else []

    def wait(self, number: int, line: str, seconds: float = 120.0) -> None:
        """Until a job has printed a line."""
        deadline = time.monotonic() + seconds
        while line not in self.log(number):
            assert time.monotonic() < deadline and self._thread.is_alive(), (
                self.ends,
                said("squeue"),
            )
            time.sleep(0.1)

    def slurm_id(self) -> str:
        """Slurm's number of the job or the array."""
        (script,) = self.jobs[0].command.log.parent.parent.glob("submitit/*_submission.sh")
        return script.name.partition("_")[0]

    def states(self) -> dict[str, tuple[str, str]]:
        """Slurm's state and exit code of each of its jobs, by id."""
        lines = said("squeue", "--me", "-h", "-r", "-t", "all", "-O", "JobArrayID,State,exit_code")
        return {w[0]: (w[1], w[2]) for w in map(str.split, lines.splitlines())}

    def finish(self, seconds: float = 120.0) -> dict[int, Ended]:
        """How they ended."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), (self.ends, said("squeue"))
        return self.ends
