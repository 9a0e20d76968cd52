"""Notices what goes wrong during a run: bad uploads, dropped examples, divergence.

A run is stopped only when nothing can come of it. A frozen head on normalised features bounds the
loss, so divergence is told by scores at chance together with a loss well above the start, for
several evaluations; by the loss alone where no constant answer scores anything, as of a language
model. What merely learnt nothing is said at the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ffalora_cli.config.errors import RunFailed
from ffalora_cli.config.schema import Config
from ffalora_cli.federation.wire.contract import REASONS
from ffalora_cli.metric_keys import (
    CLIPPED,
    EXAMPLES,
    LOSS,
    NONFINITE,
    UNITS,
    evaluated,
    personalized,
)
from ffalora_cli.tasks import registry
from ffalora_cli.types import RoundRecord

PATIENCE = 5  # evaluations in a row
ABOVE = 1.5  # times the loss before training
MARGIN = 0.02  # of a score beyond chance (of chance itself, where less is better): a few rows
NAMED = 5  # clients named one by one


class Watch:
    """Reads every record of a run in order; a resumed run shows it the earlier ones first.

    Args:
        config: of the run.
        chance: what a constant answer scores, of every metric that declares it.
    """

    def __init__(self, config: Config, chance: Mapping[str, float]) -> None:
        self._config, self._chance = config, chance
        self._task = registry.get(config.task.kind)
        self._start = self._task.uninformed_loss(config.task)
        self._high = self._broken = self._dropping = self._evaluated = 0
        self._ever_learnt = False
        self._nonfinite = 0.0
        self._clipped: list[float] = []
        self._rejected: dict[tuple[int, str], int] = {}

    def see(self, record: RoundRecord) -> list[str]:
        """Take in one round.

        Returns:
            Notes for the observer: each client and reason once.

        Raises:
            RunFailed: the run has diverged, with the likely cause.
        """
        notes = self._uploads(record)
        self._examples(record)
        self._loss(record)
        return notes

    def explained(self, failure: RunFailed) -> RunFailed:
        """A failure of the simulation (uploads or model not finite) with the likely cause."""
        text = str(failure)
        return failure if "likely" in text else RunFailed(f"{text}; {advice(self._config)}")

    def closing(self) -> list[str]:
        """Notes at the end of a run."""
        notes = []
        if self._rejected:
            clients = len({client for client, _ in self._rejected})
            notes.append(
                f"{sum(self._rejected.values())} uploads of {clients} clients were rejected; "
                "rounds.jsonl names them"
            )
        if self._nonfinite:
            notes.append(
                f"{self._nonfinite:.0f} examples had gradients that are not finite and were left "
                "out (train/nonfinite_examples)"
            )
        if self._clipped and self._config.privacy.unit == "column":
            share = sum(self._clipped) / len(self._clipped)
            notes.append(
                f"{share:.0%} of the units were clipped at privacy.max_grad_norm="
                f"{self._config.privacy.max_grad_norm:g}; recommended clips are for units of one "
                "row, so another may suit units of several"
            )
        if self._evaluated > PATIENCE and not self._ever_learnt:
            what = f"{self._scores} never left chance" if self._chance else "the loss never fell"
            notes.append(f"warning: {what}; {advice(self._config)}")
        return notes

    def _uploads(self, record: RoundRecord) -> list[str]:
        notes = []
        for line in record.rejected:
            key = (int(line["client"]), str(line["reason"]))
            if key not in self._rejected and len(self._rejected) < NAMED:
                notes.append(
                    f"warning: round {record.round}: the upload of client {key[0]} is left out: "
                    f"{REASONS[key[1]]}"
                )
            self._rejected[key] = self._rejected.get(key, 0) + 1
        return notes

    def _examples(self, record: RoundRecord) -> None:
        seen = record.metrics.get(UNITS, record.metrics.get(EXAMPLES, 0.0))
        dropped = record.metrics.get(NONFINITE, 0.0)
        self._nonfinite += dropped
        if CLIPPED in record.metrics:
            self._clipped.append(record.metrics[CLIPPED])
        if seen:
            self._dropping = self._dropping + 1 if dropped >= seen / 2 else 0
        if self._dropping >= 3:
            raise self._diverged(record, "half of all gradients are not finite for 3 rounds")

    def _loss(self, record: RoundRecord) -> None:
        loss = record.metrics.get(LOSS)
        if loss is None:
            return
        if record.round == 0 and math.isfinite(loss):
            self._start = max(self._start, loss)
        self._broken = 0 if math.isfinite(loss) else self._broken + 1
        if self._broken >= 2:
            raise self._diverged(record, "the evaluation loss is not finite")
        if record.round == 0:
            return
        self._evaluated += 1
        at_chance = self._at_chance(record.metrics)
        self._ever_learnt |= not at_chance if self._chance else loss < self._start
        high = (at_chance or not self._chance) and loss > ABOVE * self._start
        self._high = self._high + 1 if high else 0
        if self._high >= PATIENCE:
            scores = f" with {self._scores} at chance" if self._chance else ""
            raise self._diverged(
                record,
                f"evaluation loss {loss:.3g} (before training {self._start:.3g}){scores} for "
                f"{PATIENCE} evaluations",
            )

    def _at_chance(self, metrics: Mapping[str, float]) -> bool:
        """Whether the model knows no more than a constant answer; False where nothing tells."""
        beyond = [
            self._beyond(name, metrics[key])
            for name in self._chance
            for key in (evaluated(name), personalized(name))
            if key in metrics
        ]
        return bool(beyond) and max(beyond) <= MARGIN

    def _beyond(self, name: str, value: float) -> float:
        """How much better than chance a score is; as a share of it, where less is better."""
        chance = self._chance[name]
        if self._task.metrics[name].higher_is_better:
            return value - chance
        return (chance - value) / max(chance, 1e-12)

    @property
    def _scores(self) -> str:
        """The metrics that tell, in words."""
        return " and ".join(n for n in self._config.task.metrics if n in self._chance) or "scores"

    def _diverged(self, record: RoundRecord, what: str) -> RunFailed:
        return RunFailed(f"round {record.round}: diverged: {what}; {advice(self._config)}")


def advice(config: Config) -> str:
    """The likely cause of a run that does not learn, with the values used and one suggestion."""
    federation, adapter, privacy = config.federation, config.adapter, config.privacy
    rates = config.model.local_lr[federation.local_optimizer]
    usual = getattr(rates, config.method.trained_factors)
    used = f"federation.local_lr={federation.local_lr:g}, adapter.alpha={adapter.alpha:g}"
    clip = privacy.max_grad_norm
    recommended = config.model.max_grad_norm.get(adapter.targets, math.inf)
    if clip is not None:
        used += f", privacy.max_grad_norm={clip:g}"
    if federation.local_lr > 2 * usual:
        cause = f"too high a learning rate; try federation.local_lr={usual:g}"
    elif adapter.scale > 2:
        cause = f"too large an adapter scale; try adapter.alpha={adapter.rank}"
    elif clip is not None and clip > 2 * recommended:
        cause = f"too large a clip; try privacy.max_grad_norm={recommended:g}"
    else:
        cause = f"too high a learning rate; try federation.local_lr={federation.local_lr / 10:g}"
    return f"used {used}; likely {cause}"
