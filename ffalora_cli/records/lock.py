"""Locks a run folder for one writer; the kernel drops the lock when its process dies.

The file's content (pid, host, boot id) is informative only; ownership is decided by ``flock``.
Ours because ``filelock`` tells no owner of a lock the kernel keeps, leaves its file behind, and
where a file system has no ``flock`` goes over to a marker that outlives a killed process.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path
from typing import Any

from ffalora_cli.config.errors import ConfigError

_LOCK = ".lock"
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class FolderLock:
    """Held from construction until ``release`` or the end of the process.

    Attributes:
        note: one line when a dead owner's lock was taken over, else None.

    Raises:
        ConfigError: when a living process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _LOCK
        self._handle = self._claim()
        before = _owner(os.pread(self._handle, 4096, 0))
        self.note = f"took over the lock of {_spoken(before)}, which is gone" if before else None
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, json.dumps(_myself()).encode() + b"\n", 0)

    def _claim(self) -> int:
        while True:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            if not _try(handle):
                owner = _owner(os.pread(handle, 4096, 0))
                os.close(handle)
                raise _busy(self._path.parent, owner)
            if self._path.exists() and self._path.stat().st_ino == os.fstat(handle).st_ino:
                return handle
            os.close(handle)  # its last owner removed the file between our open and our lock

    def release(self) -> None:
        """Let others write; the lock file goes."""
        self._path.unlink(missing_ok=True)
        os.close(self._handle)


def check_unlocked(folder: Path) -> None:
    """Refuse a folder in which a living process writes.

    Raises:
        ConfigError: naming the process.
    """
    lock = folder / _LOCK
    if lock.is_symlink() or not lock.is_file():
        return  # refused when it is claimed
    with lock.open("rb") as stream:
        if not _try(stream.fileno()):
            raise _busy(folder, _owner(stream.read(4096)))


def _busy(folder: Path, owner: dict[str, Any] | None) -> ConfigError:
    who = f" ({_spoken(owner)})" if owner else ""
    return ConfigError(
        f"{folder}: another process is writing this run{who}; wait for it or set name="
    )


def _spoken(owner: dict[str, Any]) -> str:
    return f"pid {owner.get('pid')} on {owner.get('host')}"


def _myself() -> dict[str, Any]:
    boot = _BOOT.read_text().strip() if _BOOT.exists() else None
    return {"pid": os.getpid(), "host": socket.gethostname(), "boot": boot}


def _owner(content: bytes) -> dict[str, Any] | None:
    try:
        owner = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return owner if isinstance(owner, dict) else None


def _try(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
