"""Records why a run failed, in ``failed.json`` of its folder, until it goes on."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from ffalora_cli.config.errors import ConfigError, RunFailed, one_line
from ffalora_cli.config.secrets import redact
from ffalora_cli.records.files import read_json, to_json, write_whole
from ffalora_cli.records.run_directory import FAILED, SCHEMA_VERSION


@dataclass(frozen=True)
class Failure:
    """What ended a run that was to go on."""

    round: int  # the last one on disk
    reason: str  # one line


def write_failure(folder: Path, round: int, error: Exception) -> None:
    """Say in a run's folder that it failed; where even that cannot be written, nothing is said."""
    first = (str(error).strip().splitlines() or [""])[0]
    reason = first if isinstance(error, RunFailed) else f"{type(error).__name__}: {first}"
    content = {"schema_version": SCHEMA_VERSION, "round": round, "reason": redact(one_line(reason))}
    with contextlib.suppress(OSError):  # a full disk may be what it failed of
        write_whole(folder / FAILED, to_json(content, indent=2))


def read_failure(folder: Path) -> Failure | None:
    """What the folder says about a failure; None where it says nothing of the kind.

    A damaged file is a failure whose reason is unknown: the rounds beside it are worth as much.
    """
    file = folder / FAILED
    if not file.exists():
        return None
    try:
        content = read_json(file)
        return Failure(int(content["round"]), one_line(str(content["reason"])))
    except (ConfigError, KeyError, TypeError, ValueError, OverflowError):
        return Failure(0, f"unknown, {FAILED} is damaged")


def clear_failure(folder: Path) -> None:
    """The run goes on."""
    (folder / FAILED).unlink(missing_ok=True)
