"""What a run will do, before it does anything: clients, privacy, bytes, parameters, time, disk.

Nothing is written but caches. Jobs of a sweep share what is the same for them: a step is measured
once for all jobs whose steps cost the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.schema import Config
from ffalora_cli.experiment import cost, planned
from ffalora_cli.experiment.measurement import Measurement, measure
from ffalora_cli.experiment.parts import build

if TYPE_CHECKING:
    from ffalora_cli.experiment.parts import Parts
    from ffalora_cli.types import RoundRecord


class Nobody:
    """An observer who is told everything and says nothing: a plan's result has its warnings."""

    def note(self, text: str) -> None:
        """Not printed."""

    def started(self, facts: Mapping[str, Any]) -> None:
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
    """

    measured: bool = True
    _measurements: dict[str, Measurement] = field(default_factory=dict)

    def forecast(self, config: Config, signature: str) -> dict[str, Any]:
        """Everything that is known of one run before it starts, as JSON values.

        Args:
            config: checked.
            signature: of the run; its cohorts are drawn from it.

        Raises:
            ConfigError: a budget that cannot be, data that cannot be had; with the nearest remedy.
        """
        from ffalora_cli.federation.rehearsal import rehearse

        parts = build(config, signature, Nobody())
        seen = rehearse(parts.simulation)
        measured = self._measured(parts) if self.measured else None
        return {
            "clients": planned.clients(parts),
            "sampling": planned.sampling(parts),
            "privacy": None if parts.plan is None else planned.privacy(parts.plan),
            "communication": planned.communication(seen, config),
            "parameters": planned.parameters(parts),
            "rounds": {"asked": config.federation.rounds, "planned": seen.rounds},
            "time": None if measured is None else cost.time(parts, seen, measured),
            "memory": None if measured is None else {"peak_bytes": measured.peak_bytes},
            "disk": cost.disk(parts, seen),
            "device": str(parts.simulation.network.device),
            "warnings": [*(parts.plan.warnings if parts.plan else ()), *parts.notes],
        }

    def _measured(self, parts: Parts) -> Measurement:
        key = cost.cost_key(parts.config)
        if key not in self._measurements:
            self._measurements[key] = measure(parts)
        return self._measurements[key]
