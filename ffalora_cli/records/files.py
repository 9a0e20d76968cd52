"""Writes bytes to disk: whole files appear at once or not at all, lines are safe once written.

JSON here is strict: NaN and infinities, which JSON has no words for, are written as ``null``. Ours
because libraries for atomic files leave out what a run folder needs beside the rename: the sync of
file and folder, no way out through a link, and append-only lines that are on disk when it returns.
"""

from __future__ import annotations

import json
import math
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.errors import ConfigError

if TYPE_CHECKING:
    import torch

LARGEST = 2**31  # bytes of a record file that is read at all


def plain(value: Any) -> Any:
    """Reduce a value to what JSON and YAML know, losing nothing but non-finite numbers.

    Args:
        value: mappings, sequences, dataclasses, paths, numbers (numpy and zero-dimensional tensors
            included), strings, None; nested.

    Returns:
        dict, list, str, int, float, bool or None. NaN and infinities become None.

    Raises:
        TypeError: for anything else, so that no record holds the text of an object by accident.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return [plain(item) for item in sorted(value)]
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return plain(value.item())
    raise TypeError(f"a record cannot hold a {type(value).__name__}")


def to_json(value: Any, indent: int | None = None) -> bytes:
    """Strict UTF-8 JSON of ``plain(value)``, with a final newline; one line without ``indent``."""
    text = json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: temporary file beside it, fsync, rename, fsync of the folder.

    A reader, or the next start after a power cut, sees the old file or the new one.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        os.fchmod(handle, 0o644)  # mkstemp's 0600 would hide records from a group
        _write(handle, content)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_new(path: Path, content: bytes) -> None:
    """Write a file that is not there yet and wait until it is on disk."""
    _write(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), content)


def append(path: Path, lines: bytes) -> None:
    """Append whole lines and wait until they are on disk."""
    _write(open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), lines)


def open_own(path: Path, flags: int, mode: int = 0o644) -> int:
    """Open a file for writing where it lies: a link would lead out of the run folder.

    Raises:
        OSError: ``ELOOP`` for a link; whatever else is in the way.
    """
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, mode)


def _write(handle: int, content: bytes) -> None:
    """All of ``content`` to an open file, on disk when this returns; closes it."""
    try:
        remaining = memoryview(content)
        while remaining:
            remaining = remaining[os.write(handle, remaining) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def read_regular(path: Path, size: int) -> bytes:
    """The bytes of a plain file of at most ``size`` bytes: no link, no pipe, no surprise.

    Raises:
        OSError: missing or unreadable.
        ValueError: something else, or larger.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as stream:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > size:
            raise ValueError(f"{path.name} is not a file of at most {size} bytes")
        return stream.read()


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        ConfigError: when the file is missing or is not a JSON object.
    """
    try:
        value = json.loads(read_regular(path, LARGEST), parse_constant=_no_constant)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); is this a run?") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path}: damaged, not JSON; run the experiment again") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: damaged, not a JSON object; run the experiment again")
    return value


def read_json_lines(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """Read JSON lines; a missing file has none.

    Only the last line can be cut short by a crash, because every line is on disk before the next.

    Returns:
        The complete lines, and whether an incomplete last one was left out.

    Raises:
        ConfigError: when a line other than the last is damaged.
    """
    try:
        content = read_regular(path, LARGEST)
    except FileNotFoundError:
        return [], False
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); is this a run?") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}; run the experiment again") from None
    *complete, tail = content.split(b"\n")  # tail is empty when nothing was cut
    rows = []
    for number, line in enumerate(complete, start=1):
        try:
            row = json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise ConfigError(f"{path}: line {number} is damaged; run the experiment again")
        rows.append(row)
    return rows, bool(tail)


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def to_safetensors(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The bytes of a safetensors file.

    The library writes metadata in the order of a randomised hash table, so that two runs with the
    same bits would have different files; here the header's keys are sorted.
    """
    import torch
    from safetensors.torch import save

    # Views of one buffer, as stacks hand them out, are refused by safetensors: copy each.
    whole = torch.contiguous_format
    owned = {n: v.detach().cpu().clone(memory_format=whole) for n, v in tensors.items()}
    content = save(owned, dict(metadata) if metadata else None)
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":"))
    padded = header.encode().ljust(-(-len(header.encode()) // 8) * 8)  # data starts at 8 n
    return len(padded).to_bytes(8, "little") + padded + content[8 + size :]
