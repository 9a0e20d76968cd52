"""Forecasts a run: clients, privacy, bytes, parameters, time, disk.

Nothing is written but caches. Jobs of a sweep share what is the same for them: a step is measured
once for all jobs whose steps cost the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.job import Job
from ffalora_cli.config.schema import Config
from ffalora_cli.experiment.forecast import cost, planned
from ffalora_cli.experiment.forecast.measurement import Measurement, measure
from ffalora_cli.experiment.observer import Observer
from ffalora_cli.experiment.parts import build

if TYPE_CHECKING:
    from ffalora_cli.experiment.parts import Parts
    from ffalora_cli.models.backbone import Weights
    from ffalora_cli.types import RoundRecord


class Nobody:
    """An observer who is told everything and says nothing: a plan's result has its warnings."""

    def note(self, text: str) -> None:
        """Not printed."""

    def started(self, facts: Mapping[str, Any]) -> None:
        """Never comes."""

    def working(self, on: str, done: float, total: int) -> None:
        """Never comes."""

    def round_done(self, record: RoundRecord) -> None:
        """Never comes."""

    def finished(self, summary: Mapping[str, Any]) -> None:
        """Never comes."""


@dataclass
class Forecaster:
    """Forecasts jobs one after another; what they share is done once.

    Attributes:
        measured: whether to train a few steps for time and memory.
        observer: is told of downloads, among other notes.
    """

    measured: bool = True
    observer: Observer = field(default_factory=Nobody)
    _measurements: dict[str, Measurement] = field(default_factory=dict)

    def forecast(self, job: Job) -> dict[str, Any]:
        """Everything that is known of one run before it starts, as JSON values.

        Args:
            job: checked; cohorts are drawn from its signature.

        Raises:
            ConfigError: a budget that cannot be, data that cannot be had; with the nearest remedy.
        """
        from ffalora_cli.engine.build import pick_device
        from ffalora_cli.federation.rehearsal import rehearse

        config = replace(job.config, engine=replace(job.config.engine, shard=False))
        large = self.measured and self._too_large(config)
        # Bytes and epsilon need shapes alone; a step takes as long with random weights.
        weights: Weights = "random" if self.measured and not large else "none"
        parts = build(config, job.draw_signature, self.observer, weights=weights)
        seen = rehearse(parts.simulation)
        measured = self._measured(parts) if weights == "random" else None
        return {
            "clients": planned.clients(parts),
            "sampling": planned.sampling(parts),
            "privacy": None if parts.plan is None else planned.privacy(parts.plan),
            "communication": planned.communication(seen, config),
            "parameters": planned.parameters(parts),
            "rounds": {"asked": config.federation.rounds, "planned": seen.rounds},
            "time": None if measured is None else cost.time(parts, seen, measured),
            "memory": planned.memory(parts, measured and measured.peak_bytes),
            "disk": cost.disk(parts, seen),
            "device": pick_device(config.engine.device),
            "padding": parts.padding,
            "warnings": list(parts.warnings),
            "notes": [*job.notes, *parts.notes, *([large] if large else [])],
        }

    def _too_large(self, config: Config) -> str:
        """Why no step can be measured here; empty where the weights have room."""
        import torch

        from ffalora_cli.engine.build import pick_device
        from ffalora_cli.engine.memory import free_memory, weight_bytes
        from ffalora_cli.models.backbone import load_skeleton, pin_model

        model = load_skeleton(pin_model(config.model, self.observer.note), config.task)
        wanted = weight_bytes(model, config.engine.precision)
        free = free_memory(torch.device(pick_device(config.engine.device)))
        if wanted <= free:
            return ""
        there = f"{free / 1e9:.1f} GB are free here"
        return f"not measured: the weights take {wanted / 1e9:.1f} GB and {there}"

    def _measured(self, parts: Parts) -> Measurement:
        key = cost.cost_key(parts.config)
        if key not in self._measurements:
            self._measurements[key] = measure(parts)
        return self._measurements[key]
