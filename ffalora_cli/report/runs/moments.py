"""Reads the value of a run at an evaluation point: its last round, its best, a given one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ffalora_cli.config.errors import ConfigError, brief, choose
from ffalora_cli.metric_keys import UPLINK_TOTAL, evaluated
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.tasks.registry import higher_is_better
from ffalora_cli.types import RoundRecord

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_BYTES = re.compile(r"(\d+(?:\.\d+)?)([a-z]*)", re.IGNORECASE)


@dataclass(frozen=True)
class EvaluationPoint:
    """The round at which a run is read: ``final``, ``best-validation``, ``round`` or ``bytes``."""

    kind: str
    amount: int = 0  # the round, or the uplink bytes of all clients together

    def __str__(self) -> str:
        return f"{self.kind}={self.amount}" if self.amount or self.kind == "round" else self.kind


FINAL = EvaluationPoint("final")


def parse(text: str) -> EvaluationPoint:
    """``final``, ``best-validation``, ``round=N`` or ``bytes=X`` (10MB, 1.5e6), read.

    Raises:
        ConfigError: for anything else.
    """
    kind, equals, amount = text.partition("=")
    if not equals and kind in ("final", "best-validation"):
        return EvaluationPoint(kind)
    if kind == "round" and amount.isdecimal():
        return EvaluationPoint(kind, int(amount))
    match = _BYTES.fullmatch(amount.strip()) if kind == "bytes" else None
    if match and match[2].lower() in _UNITS:
        return EvaluationPoint(kind, round(float(match[1]) * _UNITS[match[2].lower()]))
    if kind in ("round", "bytes"):
        example = "round=10" if kind == "round" else "bytes=10MB"
        raise ConfigError(f"--at {brief(text)} has no number; write --at {example}")
    raise choose("--at", text, ("final", "best-validation", "round=N", "bytes=X"))


def headline(run: RunRecords) -> str:
    """The metric a run is judged by, by which rounds count as evaluated and are chosen."""
    told = (run.summary or {}).get("headline")
    return str(told or evaluated(run.config["task"]["metrics"][0]))


def record_at(run: RunRecords, point: EvaluationPoint) -> RoundRecord | None:
    """The round of a run that an evaluation point means; None where it never had it.

    ``final`` is the last evaluated round, ``best-validation`` the first with the best headline,
    ``round=N`` that very round, which must have been evaluated, and ``bytes=X`` the last evaluated
    round by which all clients together had sent no more than X bytes.
    """
    metric = headline(run)
    scored = [r for r in run.rounds if math.isfinite(r.metrics.get(metric, math.nan))]
    if point.kind == "round":
        scored = [record for record in scored if record.round == point.amount]
    if point.kind == "bytes":
        scored = [r for r in scored if r.metrics.get(UPLINK_TOTAL, 0.0) <= point.amount]
    if not scored:
        return None
    if point.kind == "best-validation":
        sign = 1.0 if higher_is_better(metric) else -1.0
        return max(scored, key=lambda record: (sign * record.metrics[metric], -record.round))
    return scored[-1]


def value_of(run: RunRecords, point: EvaluationPoint, metric: str) -> float | None:
    """The latest finite value of a metric by an evaluation point; None where the run has none.

    Sums and evaluations are not recorded in every round: what holds at a round is the last.
    """
    record = record_at(run, point)
    if record is None:
        return None
    earlier = [r.metrics.get(metric, math.nan) for r in run.rounds if r.round <= record.round]
    finite = [value for value in earlier if math.isfinite(value)]
    return float(finite[-1]) if finite else None


def full_name(metric: str, runs: Iterable[RunRecords]) -> str:
    """``accuracy`` as ``eval/accuracy``; a metric must have been recorded by some run.

    Raises:
        ConfigError: for one that no run recorded; names the nearest.
    """
    recorded = sorted({name for run in runs for record in run.rounds for name in record.metrics})
    for name in (metric, evaluated(metric)):
        if name in recorded:
            return name
    raise choose("--metric", metric, recorded)
