"""Runs a job as a fresh process: started, told to stop, waited for. Every launcher ends here."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ffalora_cli.stopping import SIGNALS
from ffalora_cli.sweep.jobs import Command, Ended, Stop

PYTHON = (sys.executable, "-P")  # -P: a random.py or torch.py in the folder is not imported
_LIBC = ctypes.CDLL(None)  # found here: between fork and exec nothing should be looked for
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_POLL = 0.1  # seconds
_PATIENCE = 30.0  # seconds a process has to save and leave; it promises five
_TAIL = 20_000  # bytes of a log in which the complaint is looked for


def play(
    command: Command,
    stop: Stop | None = None,
    threads: int | None = None,
    gpus: str | None = None,
    tied: bool = False,
) -> Ended:
    """Run one job to its end in a process of its own.

    The process has a process group of its own: a Ctrl-C on the terminal reaches it through us
    alone, and once.

    Args:
        command: of the job.
        stop: polled; the command's stop file where None.
        threads: for ``OMP_NUM_THREADS``, unless that is set already.
        gpus: for ``CUDA_VISIBLE_DEVICES``; those of this process where None.
        tied: it dies with this process, so that another machine may go on with the run.

    Returns:
        Exit code (128 + n when it died of signal n, or was asked to stop before it began), seconds
        and the last line it complained with.
    """
    stop = stop or (lambda: read_stop(command.stop_file))
    environment = dict(os.environ)
    if threads is not None:
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    if gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpus
    began = time.monotonic()
    if (asked := stop()) is not None:
        return Ended(128 + asked, 0.0)
    with command.log.open("ab") as log, _signals_let_through():
        start = log.tell()  # a job of a queue may have several turns
        process = subprocess.Popen(
            [*PYTHON, "-m", "ffalora_cli", *command.arguments],
            cwd=command.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent if tied else None,
        )
    try:
        code = _wait(process, stop)
    except BaseException:  # a cluster takes its machine back: nothing may be left behind
        _end(process, signal.SIGTERM)
        raise
    code = code if code >= 0 else 128 - code
    error = complaint(command.log, code, start) if code else None
    return Ended(code, time.monotonic() - began, error)


def die_with_parent() -> None:
    """Called in a process that is about to begin: the kernel kills it when its parent dies.

    Killed, not asked: whoever goes on with its run does so at once, from the last finished round.
    """
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def _signals_let_through() -> Iterator[None]:
    """Ray blocks SIGINT in its workers, and a process inherits what is blocked."""
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(process: subprocess.Popen[bytes], stop: Stop) -> int:
    while True:
        try:
            return process.wait(_POLL)
        except subprocess.TimeoutExpired:
            asked = stop()
        if asked is not None:
            return _end(process, asked)


def _end(process: subprocess.Popen[bytes], number: int) -> int:
    """Ask a process to save and leave; insist if it does not."""
    _tell(process, number)
    try:
        return process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        _tell(process, signal.SIGKILL)
        return process.wait()


def _tell(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def complaint(log: Path, code: int, start: int) -> str:
    """The last line of ours in a log, from a byte on; else its last line, else the code."""
    with log.open("rb") as stream:
        stream.seek(max(start, log.stat().st_size - _TAIL))
        lines = stream.read().decode(errors="replace").split("\n")
    written = [line.strip() for line in lines if line.strip()]
    ours = [line for line in written if line.startswith("ffalora: ")]
    last = (ours or written or [f"ended with exit code {code} and no word"])[-1]
    return last.removeprefix("ffalora: ")[:300]


def write_stop(file: Path, number: int) -> None:
    """Ask processes on other machines to stop."""
    with contextlib.suppress(OSError):  # a full disk: they are then waited for
        file.write_text(str(number), encoding="ascii")


def read_stop(file: Path) -> int | None:
    """The signal in a stop file, or None."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
