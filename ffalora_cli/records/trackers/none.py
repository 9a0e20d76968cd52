"""No tracker: the local records are all there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ffalora_cli.config.schema import TrackingConfig
from ffalora_cli.records.trackers.base import RunFacts
from ffalora_cli.types import RoundRecord


class NoTracker:
    """Sends nothing."""

    url: str | None = None
    notes: tuple[str, ...] = ()

    def __init__(self, config: TrackingConfig) -> None:
        del config

    def start(self, facts: RunFacts) -> None:
        """Nothing to begin."""

    def log(self, record: RoundRecord) -> None:
        """Nothing to send."""

    def finish(
        self, summary: Mapping[str, Any] | None, exit_code: int = 0, seconds: float | None = None
    ) -> None:
        """Nothing to end."""


TRACKER = NoTracker
