"""What a tracker is: a mirror of the local records. Its failure never ends a run.

One file per tracker in this folder, named as ``tracking.name``, with a class named ``TRACKER``.

Rule on what leaves the machine: only ``RoundRecord.metrics`` do, never per-client details (sizes,
label counts, losses). In a private run, what was computed from the training rows without noise
stays in the run folder too (``records/metric_tags.py``), unless ``tracking.private_metrics`` asks
for it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ffalora_cli.config.errors import choose
from ffalora_cli.config.schema import TrackingConfig
from ffalora_cli.records.files import read_json
from ffalora_cli.records.metric_tags import may_leave
from ffalora_cli.records.provenance import KEY, provenance, without_paths
from ffalora_cli.records.run_directory import MANIFEST, PRIVACY
from ffalora_cli.types import RoundRecord

_SHARED = ("base", "worker")  # files here that are no tracker


@dataclass(frozen=True)
class RunFacts:
    """What a tracker is told before the first round."""

    id: str  # the same in the local records and in the tracker
    name: str
    folder: Path
    config: Mapping[str, Any]  # resolved, plain
    origin: Mapping[str, Any] = field(default_factory=dict)  # see ``records/provenance.py``

    @staticmethod
    def of(folder: Path, name: str, config: Mapping[str, Any]) -> RunFacts:
        """Facts of a run whose folder has its manifest and, if private, its statement."""
        statement = read_json(folder / PRIVACY) if (folder / PRIVACY).exists() else None
        private = config["privacy"]["unit"] != "none"
        origin = provenance(read_json(folder / MANIFEST), statement, private)
        return RunFacts(folder.name, name, folder, config, origin)

    @property
    def described(self) -> dict[str, Any]:
        """The config as a tracker gets it, with the run's origin."""
        return {**without_paths(self.config), KEY: dict(self.origin)}

    @property
    def private(self) -> bool:
        """Whether the run claims any privacy."""
        return bool(self.config["privacy"]["unit"] != "none")

    @property
    def group(self) -> str:
        """What runs that differ in seed and method have in common."""
        names = [str(self.config[key]["name"]) for key in ("task", "model", "partition")]
        return "-".join([*names, self.privacy_label])

    @property
    def tags(self) -> tuple[str, ...]:
        """Method, task and privacy."""
        method, task = self.config["method"]["name"], self.config["task"]["name"]
        return (str(method), str(task), self.privacy_label)

    @property
    def privacy_label(self) -> str:
        """The promise in a word: ``no_privacy``, ``example_eps6``, ``client_noise0.5``."""
        privacy = self.config["privacy"]
        if not self.private:
            return "no_privacy"
        if privacy.get("noise_multiplier") is not None:
            return f"{privacy['unit']}_noise{privacy['noise_multiplier']:g}"
        return f"{privacy['unit']}_eps{privacy['epsilon_target']:g}"

    def released(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """The metrics that may leave the run folder."""
        if self.config.get("tracking", {}).get("private_metrics", False):
            return dict(metrics)
        unit = str(self.config["privacy"]["unit"])
        return {k: v for k, v in metrics.items() if may_leave(k, unit)}


class Tracker(Protocol):
    """A mirror. No method raises, and none but ``finish`` waits."""

    def start(self, facts: RunFacts) -> None:
        """Begin; called once, after the run folder exists."""

    def log(self, record: RoundRecord) -> None:
        """Mirror one round; one that was mirrored in an earlier sitting is left out."""

    def finish(
        self, summary: Mapping[str, Any] | None, exit_code: int = 0, seconds: float | None = None
    ) -> None:
        """End within ``seconds`` (its own limit if None); no ``summary`` when the run failed."""

    @property
    def url(self) -> str | None:
        """Where to look, once known."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user: what did not work and what to do. Grows while the run goes on."""


def names() -> list[str]:
    """Trackers at hand: the files of this folder."""
    folder = str(Path(__file__).parent)
    return sorted(m.name for m in pkgutil.iter_modules([folder]) if m.name not in _SHARED)


def open_tracker(config: TrackingConfig) -> Tracker:
    """The tracker named by ``tracking.name``, not started.

    Raises:
        ConfigError: for a name without a file.
    """
    if config.name not in names():
        raise choose("tracking.name", config.name, names())
    module = importlib.import_module(f"{__package__}.{config.name}")
    tracker: Tracker = module.TRACKER(config)
    return tracker
