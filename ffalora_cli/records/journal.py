"""Keeps a file of lines that only grows, and knows how long it is and what it hashes to.

A checkpoint notes both, so that after a crash the file can be cut back to exactly what it held
then, and a file that was changed meanwhile is told from one that only grew.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from ffalora_cli.records.files import append, open_own


@dataclass(frozen=True)
class Mark:
    """A position in a journal: its first ``bytes`` bytes hash to ``sha256``."""

    bytes: int
    sha256: str


class Journal:
    """One file, hashed as it is written.

    Args:
        path: of the file; it need not be there yet. What it holds is read by ``catch_up``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hash = hashlib.sha256()
        self._bytes = 0

    def append(self, lines: bytes) -> None:
        """Append whole lines; on disk when this returns."""
        if lines:
            append(self.path, lines)
            self._count(lines)

    def catch_up(self) -> None:
        """Count what was written past this object (by an earlier process, or another writer)."""
        if self.path.exists():
            with self.path.open("rb") as stream:
                stream.seek(self._bytes)
                self._count(stream.read())

    def mark(self) -> Mark:
        """Where the journal ends."""
        return Mark(self._bytes, self._hash.hexdigest())

    def holds(self, mark: Mark) -> bool:
        """Whether the file begins with what ``mark`` was taken of."""
        if mark.bytes == 0:
            return True
        if not self.path.is_file():
            return False
        with self.path.open("rb") as stream:
            beginning = stream.read(mark.bytes)
        digest = hashlib.sha256(beginning).hexdigest()
        return len(beginning) == mark.bytes and digest == mark.sha256

    def rewind(self, mark: Mark) -> None:
        """Cut the file back to a mark it ``holds``."""
        if self.path.exists():
            handle = open_own(self.path, os.O_WRONLY)  # never through a link
            try:
                os.truncate(handle, mark.bytes)
            finally:
                os.close(handle)
        self._hash, self._bytes = hashlib.sha256(), 0
        self.catch_up()

    def _count(self, lines: bytes) -> None:
        self._hash.update(lines)
        self._bytes += len(lines)
