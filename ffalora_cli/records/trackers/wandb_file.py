"""Reads W&B's own offline file, so that what it holds is known and not remembered.

A ``.wandb`` file is a log in LevelDB's format (blocks of 32 KiB, records split over them as first,
middle, last or whole; ``doc/log_format.md`` of LevelDB) after a header of 7 bytes; a record is a
``wandb_internal.Record`` message. Checksums are not compared: a cut end is all that a crash leaves.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK, _HEADER = 32768, 7
_WHOLE, _LAST = 1, 4


def entries(file: Path) -> Iterator[Any]:
    """The records of a file, a cut last one left out."""
    from wandb.proto import wandb_internal_pb2 as proto

    content, at, parts = file.read_bytes(), _HEADER, b""
    while at + _HEADER <= len(content):
        room = _BLOCK - at % _BLOCK
        if room < _HEADER:  # a block's end too short for a header is padding
            at += room
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + _HEADER])
        at += _HEADER
        if at + length > len(content):
            return
        parts += content[at : at + length]
        at += length
        if kind in (_WHOLE, _LAST):
            yield proto.Record.FromString(parts)  # type: ignore[attr-defined]
            parts = b""


def rounds_in(file: Path, target: str) -> list[int]:
    """Rounds in an offline file, none where it is not meant for ``ENTITY/PROJECT``."""
    rounds: list[int] = []
    for entry in entries(file):
        if entry.HasField("run") and f"{entry.run.entity}/{entry.run.project}" != target:
            return []
        for item in entry.history.item:
            if "round" in (item.key, *item.nested_key):
                rounds.append(int(json.loads(item.value_json)))
    return rounds
