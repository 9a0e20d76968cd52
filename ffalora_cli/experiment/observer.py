"""Declares what observers of a run are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ffalora_cli.types import RoundRecord


class Observer(Protocol):
    """Watches a run; ``cli`` prints, tests collect."""

    def note(self, text: str) -> None:
        """Something worth knowing before the rounds, or a tracker's complaint."""

    def started(self, facts: Mapping[str, Any]) -> None:
        """Everything is built; the first round is about to begin."""

    def working(self, on: str, done: float, total: int) -> None:
        """How far long work within a round is, in what it works ``on``."""

    def round_done(self, record: RoundRecord) -> None:
        """A round is on disk."""

    def finished(self, summary: Mapping[str, Any]) -> None:
        """The run is on disk."""
