"""Watching a call: what it raised, how long it took, and whether it touched what is not its own."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

_RUNS_CODE = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pickle.find_class",
    "socket.connect", "ctypes.dlopen",
)  # fmt: skip
_HARMLESS = (["uname", "-p"],)  # Python's own ``platform``, asked by a library
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = (
    "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.symlink", "shutil.rmtree",
)  # fmt: skip


class HangError(BaseException):
    """A call that takes too long; no ``except Exception`` may catch it."""


class Watch:
    """Python's audit events, seen while ``armed``: code run, connections, writes outside a folder.

    Attributes:
        seen: what should not have happened, in words.
    """

    def __init__(self, folder: Path) -> None:
        self.seen: list[str] = []
        self._folder = os.path.realpath(folder)
        self._armed = False
        sys.addaudithook(self._event)

    @contextlib.contextmanager
    def armed(self, cpu_seconds: float = 2.0, seconds: float = 10.0) -> Iterator[None]:
        """Watch, and raise ``HangError`` after so much time of this process, or of the wall."""

        def ring(*_: object) -> None:
            raise HangError(f"longer than {cpu_seconds} s of work, or {seconds} s in all")

        before = [signal.signal(number, ring) for number in (signal.SIGPROF, signal.SIGALRM)]
        self._armed = True
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._armed = False
            for number, handler in zip((signal.SIGPROF, signal.SIGALRM), before, strict=True):
                signal.signal(number, handler)

    def _event(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self._armed:
            return
        if event in _RUNS_CODE:
            if arguments[0] == "git" or (len(arguments) > 1 and arguments[1] in _HARMLESS):
                return  # the manifest's own
            if event == "ctypes.dlopen" and arguments[0] is None:
                return  # this process itself: nothing is loaded
            self.seen.append(f"{event} {str(arguments)[:120]}")
        elif event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITES:
                self._written(event, path)
        elif event in _CHANGES:
            self._written(event, arguments[0])

    def _written(self, event: str, path: object) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        real = os.path.realpath(os.fsdecode(path))
        if not real.startswith((self._folder, "/dev/null")):
            self.seen.append(f"{event} {real}")


def outcome(
    call: Callable[[], object],
    watch: Watch,
    allowed: tuple[type[Exception], ...],
    cpu_seconds: float = 2.0,
) -> str:
    """Play one call, which may work for so long.

    Returns:
        ``"read"`` or ``"refused"``; else what went wrong.
    """
    watch.seen.clear()
    try:
        with watch.armed(cpu_seconds):
            call()
        said = "read"
    except allowed as error:
        text = str(error)
        said = "refused" if text and "\n" not in text.strip() else f"not one line: {text[:200]!r}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {str(error)[:200]!r}"
    return watch.seen[0] if watch.seen else said
