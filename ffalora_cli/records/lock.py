"""One writer a run folder: an advisory lock that the kernel drops when its process dies."""

from __future__ import annotations

import fcntl
from pathlib import Path

from ffalora_cli.config.errors import ConfigError

_LOCK = ".lock"


class FolderLock:
    """Held from construction until ``release`` or the end of the process."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _LOCK
        self._stream = self._path.open("w")
        if not _try(self._stream.fileno()):
            self._stream.close()
            raise ConfigError(f"{folder}: another process is writing this run; wait or set name=")

    def release(self) -> None:
        """Let others write; the lock file goes."""
        self._path.unlink(missing_ok=True)
        self._stream.close()


def is_locked(folder: Path) -> bool:
    """Whether a living process writes in this folder."""
    lock = folder / _LOCK
    if not lock.exists():
        return False
    with lock.open() as stream:
        return not _try(stream.fileno())


def _try(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
