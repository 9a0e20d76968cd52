"""One run that was composed, built and checked: the value that is passed on from there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ffalora_cli.config.build import to_plain
from ffalora_cli.config.schema import Config
from ffalora_cli.config.signature import signature


@dataclass(frozen=True)
class Job:
    """One run, checked and ready."""

    config: Config  # built and checked
    overrides: tuple[str, ...] = ()  # of this job alone: a sweep is expanded
    notes: tuple[str, ...] = ()  # lines about how it was read
    command: tuple[str, ...] = ()  # the command line as typed, for the manifest
    again: bool = False  # start over in a folder of its own, whatever there is
    folder: Path | None = None  # of the run to go on with; None: it is looked for
    named: bool = True  # by a person: only a folder of this name is its run
    fork_of: Path | None = None  # folder of another run from whose last round this one starts

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """The configuration as nested plain values, for records."""
        return to_plain(self.config)

    @cached_property
    def signature(self) -> str:
        """Twelve hex digits: the same for the same experiment."""
        return signature(self.resolved)

    @cached_property
    def draw_signature(self) -> str:
        """What the privacy draws are keyed by: looking on changes no draw, and so no bit."""
        return signature({**self.resolved, "diagnostics": "none"})
