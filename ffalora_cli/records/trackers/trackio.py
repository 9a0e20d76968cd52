"""Trackio: a local dashboard with W&B's manner; a run has the folder's name, a round is a step.

Its store is an SQLite file below ``TRACKIO_DIR``; what is in it counts, so a round is never there
twice. Trackio turns its own failures into warnings, therefore the store is asked at the end. A
Space or a server of one's own is chosen in Trackio's way (``TRACKIO_SPACE_ID``,
``TRACKIO_SERVER_URL``), not with ``tracking.mode``.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ffalora_cli.records.trackers import worker
from ffalora_cli.records.trackers.base import RunFacts

if TYPE_CHECKING:
    import trackio


class TrackioTracker(worker.BackgroundTracker):
    """Sends to Trackio; look with ``trackio show --project PROJECT``."""

    label = "Trackio"
    remedy = "pip install 'ffalora[trackers]'"
    _run: trackio.Run

    def _open(self, facts: RunFacts) -> int:
        import trackio

        for name in ("trackio", "trackio.run", "trackio.utils"):  # only cli speaks to the user
            vars(importlib.import_module(name))["print"] = lambda *_, **__: None
        warnings.filterwarnings("ignore", module="trackio")
        self._run = trackio.init(
            project=self._config.project,
            name=facts.id,
            group=self._config.group or facts.group,
            config={**facts.described, "tags": [*facts.tags, *self._config.tags]},
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self.url = self._run.url
        return int(self._run._next_step) - 1  # found by Trackio, in its store or on its server

    def _write(self, number: int, metrics: Mapping[str, Any]) -> None:
        self._run.log(dict(metrics), step=number)

    def _close(self, values: Mapping[str, Any], exit_code: int) -> None:
        from trackio.sqlite_storage import SQLiteStorage

        self._run.finish()
        if self._run.url is None:
            run = self._run
            last = SQLiteStorage.get_max_step_for_run(run.project, run.name, run.id)
            if last != self._last and self._last >= 0:
                raise RuntimeError(f"its store ends with round {last} instead of {self._last}")

    def _last_word(self) -> str | None:
        return f"Trackio: look with: trackio show --project {self._config.project}"


TRACKER = TrackioTracker
