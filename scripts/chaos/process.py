"""Breaking the real process: SIGKILL, SIGTERM and SIGINT at random moments of a whole command."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scripts.chaos.workload import Row, overrides, result, rounds_on_disk, tiny_model

_RUN = [sys.executable, "-m", "ffalora_cli.cli.main"]


class Process:
    """One command line that is played, broken and gone on with.

    Args:
        root: folder for everything.
        settings: overrides of the run.
    """

    def __init__(self, root: Path, settings: list[str]) -> None:
        self._root, self._settings = root, settings
        began = time.monotonic()
        self.whole = self.finish(root / "whole")
        self.seconds = time.monotonic() - began

    def start(self, runs: Path) -> subprocess.Popen[str]:
        """Begin or go on, by the same command."""
        command = [*_RUN, "run", *self._settings, f"paths.runs={runs}"]
        environment = {**os.environ, "FFALORA_CACHE": str(self._root / "cache")}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)

    def finish(self, runs: Path) -> str:
        """Play to the end; the result's hash."""
        process = self.start(runs)
        _, errors = process.communicate(timeout=600)
        if process.returncode:
            raise RuntimeError(f"exit code {process.returncode}: {errors[-300:]}")
        (run,) = runs.iterdir()
        return result(run)

    def broken(self, runs: Path, after: float, number: int) -> tuple[int | None, float, str]:
        """Send a signal ``after`` seconds.

        Returns:
            Exit code (None: it was done before), seconds from signal to exit, standard error.
        """
        process = self.start(runs)
        try:
            process.wait(after)
            return None, 0.0, ""
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        sent = time.monotonic()
        _, errors = process.communicate(timeout=120)
        return process.returncode, time.monotonic() - sent, errors


def kills(count: int, seed: int = 0, settings: list[str] | None = None) -> Row:
    """SIGKILL at a random moment; the same command again; compare."""
    row = Row("random SIGKILLs of the real process", "resume bit-identical, one round lost at most")
    generator = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="ffalora-chaos-") as root:
        process = Process(Path(root), settings or _small(Path(root)))
        training = 0
        for number in range(count):
            runs = Path(root, f"kill-{number}")
            process.broken(runs, generator.uniform(0, process.seconds), signal.SIGKILL)
            training += any(rounds_on_disk(run) > 0 for run in _folders(runs))
            same = process.finish(runs) == process.whole
            row.count(None if same else f"trial {number}: another result")
        row.notes.append(f"{training} of them after round 0")
    return row


def signals(count: int, seed: int = 0, settings: list[str] | None = None) -> Row:
    """SIGTERM and SIGINT in turn at random moments: exit code, seconds, command to go on."""
    row = Row("SIGTERM and SIGINT at random moments", "exit in 5 s, right code, resumable")
    generator, slowest = random.Random(seed), 0.0
    with tempfile.TemporaryDirectory(prefix="ffalora-chaos-") as root:
        process = Process(Path(root), settings or _small(Path(root)))
        while row.tried < count:
            number = (signal.SIGTERM, signal.SIGINT)[row.tried % 2]
            runs = Path(root, f"signal-{row.tried}")
            # Python itself needs a moment before it can hear a signal.
            after = generator.uniform(min(1.0, process.seconds / 2), process.seconds)
            code, seconds, errors = process.broken(runs, after, number)
            if code is None:  # it was done before the signal
                shutil.rmtree(runs)
                continue
            slowest = max(slowest, seconds)
            wrong = _wrong_exit(code, seconds, errors, number, _folders(runs))
            if wrong is None and process.finish(runs) != process.whole:
                wrong = "another result"
            row.count(wrong and f"trial {row.tried}: {wrong}")
        row.notes.append(f"slowest {slowest:.1f} s")
    return row


def _wrong_exit(
    code: int, seconds: float, errors: str, number: int, runs: list[Path]
) -> str | None:
    written = all((run / "summary.json").exists() for run in runs)
    if written and code in (0, -number):
        # Nothing begun, or all written and Python on its way out: there is no handler before and
        # after our own, and a shell says 128 + number for it as well.
        return None
    if code != 128 + number or seconds > 5:
        return f"exit code {code} after {seconds:.1f} s: {errors[-200:]}"
    begun = any(rounds_on_disk(run) for run in runs)
    if begun and not re.search(r"ffalora resume \S+", errors):
        return f"no command to go on: {errors[-200:]}"
    return None


def _folders(runs: Path) -> list[Path]:
    return list(runs.iterdir()) if runs.exists() else []


def _small(root: Path) -> list[str]:
    return overrides(tiny_model(root / "model"), "private", rounds=30)
