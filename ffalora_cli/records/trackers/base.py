"""Sends copies of the local records to a tracker, whose failure never ends a run.

One file per tracker in this folder, named as ``tracking.name``, with a class named ``TRACKER``.

Rule on what leaves the machine: what ``records/leaving.py`` lists, and nothing about a single
client. Of a private run neither metrics computed without noise nor times of single rounds leave,
unless ``tracking.private_metrics`` asks for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Protocol

from ffalora_cli.config.plugins import Folder
from ffalora_cli.config.schema import TrackingConfig
from ffalora_cli.records.files import read_json
from ffalora_cli.records.leaving import (
    leaving,
    metric_may_leave,
    released_manifest,
    released_summary,
)
from ffalora_cli.records.run_directory import MANIFEST, PRIVACY
from ffalora_cli.types import RoundRecord

KEY = "ffalora"
"""Of a tracker's config: where a run's numbers come from, read back by ``report/wandb/runs.py``."""

BATCHED = (
    "this private run's rounds go in one batch when it is done, because the times at which they "
    "arrive are times of single rounds; tracking.private_metrics=true sends everything live"
)
"""Said where a run with a tracker begins."""

TRACKERS = Folder(
    "tracking.name",
    "ffalora_cli.records.trackers",
    group="",
    holds="TRACKER",
    made_of="Tracker",
    interface=frozenset({"base", "worker", "wandb_file"}),
)
_LEFT_OUT = ("schema_version", "id", "command", "git", "platform")
"""Facts of a manifest that may leave, but say more about a machine than a comparison needs."""


@dataclass(frozen=True)
class RunFacts:
    """What a tracker is told before the first round."""

    id: str  # the same in the local records and in the tracker
    name: str
    folder: Path
    config: Mapping[str, Any]  # resolved, plain
    origin: Mapping[str, Any] = field(default_factory=dict)  # of manifest and statement
    replayed: bool = False  # from records, all rounds at once (``ffalora sync``)

    @staticmethod
    def of(folder: Path, name: str, config: Mapping[str, Any]) -> RunFacts:
        """Facts of a run whose folder has its manifest and, if private, its statement."""
        unit = str(config["privacy"]["unit"])
        manifest = released_manifest(read_json(folder / MANIFEST), unit)
        kept = {key: value for key, value in manifest.items() if key not in _LEFT_OUT}
        claim = None
        if (folder / PRIVACY).exists():
            claim = leaving(read_json(folder / PRIVACY), "privacy", unit)
        return RunFacts(folder.name, name, folder, config, {"manifest": kept, "privacy": claim})

    @property
    def described(self) -> dict[str, Any]:
        """The config as a tracker gets it, with the run's origin; a null were an empty column."""
        kept = leaving(self.config, "config", self.unit)
        source = str((kept.get("model") or {}).get("source") or "")
        if source.startswith(("/", "~", ".", "\\")) or ":\\" in source[:3]:
            kept["model"] = {**kept["model"], "source": PurePath(source).name}
        return _without_nulls({**kept, KEY: dict(self.origin)})

    @property
    def unit(self) -> str:
        """Of privacy."""
        return str(self.config["privacy"]["unit"])

    @property
    def private(self) -> bool:
        """Whether the run claims any privacy."""
        return self.unit != "none"

    @property
    def guarded(self) -> bool:
        """Whether something stays at home: the run is private, and nobody asked for all of it."""
        return self.private and not self.config.get("tracking", {}).get("private_metrics", False)

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

    @property
    def kept_back(self) -> bool:
        """Whether rounds wait for the end of the run: their arrival would tell single times."""
        return self.guarded and not self.replayed

    def released(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """The metrics that may leave the run folder."""
        if not self.guarded:
            return dict(metrics)
        return {k: v for k, v in metrics.items() if metric_may_leave(k, self.unit)}

    def summary(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Scalars of a summary that may leave, under names that say what they are.

        Last metrics have their own names, and so has that of the best round: ``best/round`` and
        ``best/eval/accuracy``.
        """
        kept = released_summary(summary, self.unit if self.guarded else "none")
        values = {
            key: value
            for key, value in kept.items()
            if isinstance(value, str | int | float) and key not in ("value", "schema_version")
        }
        if best := kept.get("best"):
            values |= {"best/round": best["round"], f"best/{kept['headline']}": best["value"]}
        return {**values, **(kept.get("final") or {})}


def _without_nulls(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree without nulls, and without sections that held nothing else."""
    kept: dict[str, Any] = {}
    for key, value in tree.items():
        inner = _without_nulls(value) if isinstance(value, Mapping) else value
        if inner is not None and (inner or not value or not isinstance(value, Mapping)):
            kept[key] = inner
    return kept


class Tracker(Protocol):
    """A copy of the records elsewhere. No method raises, and none but ``finish`` waits."""

    def start(self, facts: RunFacts) -> None:
        """Begin; called once, after the run folder exists."""

    def log(self, record: RoundRecord) -> None:
        """Send one round; one that was sent before a resume is left out."""

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


def open_tracker(config: TrackingConfig) -> Tracker:
    """The tracker named by ``tracking.name``, not started.

    Raises:
        ConfigError: for a name without a file.
    """
    tracker: Tracker = TRACKERS.get(config.name)(config)
    return tracker
