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

    def round_done(self, record: RoundRecord) -> None:
        """A round is on disk."""

    def finished(self, summary: Mapping[str, Any]) -> None:
        """The run is on disk."""
