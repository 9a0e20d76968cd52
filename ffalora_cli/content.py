"""Hashes the content of files, and remembers on disk the hashes already taken.

A leaf beside ``keys``: data and models are both told apart by what their files hold. A hash that
was taken before is used again only while path, inode, size and both times of every file are what
they were; a file that was just written is always read, because a clock tick may hide a second
change of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

_SETTLED = 2_000_000_000  # nanoseconds after which a change would have another time


def cache_folder(cache_dir: str | None = None) -> Path:
    """``paths.cache``, else ``$FFALORA_CACHE``, else ``~/.cache/ffalora``; read at each call."""
    chosen = cache_dir or os.environ.get("FFALORA_CACHE") or "~/.cache/ffalora"
    return Path(chosen).expanduser()


def hash_memory(cache_dir: str | None) -> Path:
    """Folder of hashes of files that were taken before."""
    return cache_folder(cache_dir) / "fingerprints"


def content_hash(root: Path, files: Sequence[Path], memory: Path | None = None) -> str:
    """SHA-256 of one file, or of the names (below ``root``) and contents of several, in order.

    Args:
        root: folder that the files are in; where it lies plays no part.
        files: at least one.
        memory: folder of hashes taken before; None takes every hash anew.

    Returns:
        64 hex digits.

    Raises:
        OSError: a file cannot be read.
    """
    marks = _marks(files)
    entry = None if memory is None else memory / f"{_digest(map(str, files))[:32]}.json"
    known = _recall(entry, marks)
    if known is not None:
        return known
    hashes = []
    for path in files:
        with path.open("rb") as stream:
            hashes.append(hashlib.file_digest(stream, "sha256").hexdigest())
    if len(files) == 1:
        value = hashes[0]
    else:
        names = (path.relative_to(root).as_posix() for path in files)
        value = _digest(f"{name} {found}" for name, found in zip(names, hashes, strict=True))
    newest = max(max(mark[-2:]) for mark in marks)
    if entry is not None and _marks(files) == marks and time.time_ns() - newest > _SETTLED:
        with contextlib.suppress(OSError):  # a memory that cannot be kept costs time alone
            _remember(entry, marks, value)
    return value


def _marks(files: Sequence[Path]) -> list[tuple[str, int, int, int, int]]:
    """What is the same as long as a file is: path, inode, size, times of content and of inode."""
    found = []
    for path in files:
        facts = path.stat()
        found.append((str(path), facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns))
    return found


def _digest(lines: Iterable[str]) -> str:
    # Linux paths may hold bytes that are no text; Python reads them as lone surrogates.
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def _recall(entry: Path | None, marks: Sequence[object]) -> str | None:
    """The hash that was taken of files with these marks."""
    try:
        known = {} if entry is None else json.loads(entry.read_bytes())
        return str(known["sha256"]) if known["marks"] == _digest(map(repr, marks)) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(entry: Path, marks: Sequence[object], value: str) -> None:
    """Write beside the target, then rename: a reader sees a whole entry or none."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=".partial-", dir=entry.parent)
    try:
        with os.fdopen(handle, "w") as stream:
            json.dump({"marks": _digest(map(repr, marks)), "sha256": value}, stream)
        os.replace(partial, entry)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
