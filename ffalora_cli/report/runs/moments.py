"""Reads a run at an evaluation point: its last round, its best, a budget, a score it reaches."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ffalora_cli.config.errors import ConfigError, brief, choose
from ffalora_cli.metric_keys import (
    DOWNLINK_TOTAL,
    EPSILON,
    ROUND_SECONDS,
    UPLINK_TOTAL,
    described,
    evaluated,
    short_name,
)
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.tasks.registry import higher_is_better, is_percent
from ffalora_cli.tasks.registry import metric as declared
from ffalora_cli.types import RoundRecord

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_AMOUNT = re.compile(r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?) ?([a-z]*|%)", re.IGNORECASE)


COSTS = {
    "round": "rounds",
    "uplink_bytes": "bytes",
    "total_bytes": "bytes",
    "epsilon": "epsilon",
    "seconds": "seconds",
}
"""What a run has cost by a round, beside its metrics, and the unit; as ``plot --x`` names them."""

_BUDGETS = {"bytes": "uplink_bytes", "epsilon": "epsilon", "seconds": "seconds"}
_EXAMPLES = {"round": "10", "bytes": "10MB", "epsilon": "3", "seconds": "600"}
_KINDS = ("final", "best-validation", "round=N", "bytes=X", "epsilon=X", "seconds=X")


@dataclass(frozen=True)
class EvaluationPoint:
    """The round at which a run is read.

    Attributes:
        kind: ``final``, ``best-validation``, ``round``, a budget (``bytes``, ``epsilon``,
            ``seconds``) or ``reach``.
        amount: the round, what may have been spent, or the score that is reached.
        metric: of ``reach``: its full name.
    """

    kind: str
    amount: float = 0
    metric: str = ""

    def __str__(self) -> str:
        name = short_name(self.metric) or self.kind
        return f"{name}={self.amount:.10g}" if self.kind in ("round", "reach", *_BUDGETS) else name


FINAL = EvaluationPoint("final")


def parse(text: str, runs: Iterable[RunRecords] = ()) -> EvaluationPoint:
    """``final``, ``best-validation``, ``round=N``, a budget (``bytes=10MB``) or ``accuracy=0.8``.

    Args:
        text: as it was typed.
        runs: to be read, which know the metrics there are.

    Raises:
        ConfigError: for anything else; says what may be written.
    """
    kind, equals, amount = (part.strip() for part in text.partition("="))
    if not equals and kind in ("final", "best-validation"):
        return EvaluationPoint(kind)
    runs = list(runs)
    known = sorted({name for run in runs for record in run.rounds for name in record.metrics})
    if not equals or (kind not in _EXAMPLES and not {kind, evaluated(kind)} & set(known)):
        scores = [short_name(name) for name in known if declared(name)]
        raise choose("--at", kind, (*_KINDS, *scores))
    match = _AMOUNT.fullmatch(amount)
    match = match if match and math.isfinite(float(match[1])) else None
    unit = match[2].lower() if match else "?"
    if match and unit == "" and kind == "round" and amount.isdecimal():
        return EvaluationPoint(kind, int(amount))
    if match and (unit in _UNITS if kind == "bytes" else unit == "" and kind in _BUDGETS):
        return EvaluationPoint(kind, float(match[1]) * _UNITS[unit])
    if kind in _EXAMPLES:
        example = f"{kind}={_EXAMPLES[kind]}"
        raise ConfigError(f"--at {brief(text)} has no number; write --at {example}")
    return _reached(full_name(kind, runs), kind, match, unit)


def _reached(metric: str, typed: str, match: re.Match[str] | None, unit: str) -> EvaluationPoint:
    """The first round with a score, which has a direction."""
    meaning = described(metric)
    if declared(metric) is None and (not meaning or not meaning.better or _cost(metric)):
        raise ConfigError(
            f"--at {typed}=: a run reaches a score, and {metric} is none; write a metric of its "
            "task, or a budget as in --at bytes=10MB"
        )
    percent = is_percent(metric)
    if match is None or unit not in ("", *(("%",) if percent else ())):
        raise ConfigError(f"--at {typed}= has no number; write --at {typed}=0.8")
    amount = float(match[1]) / (100 if unit else 1)
    if percent and amount > 1:
        raise ConfigError(
            f"--at {typed}={match[1]}: {short_name(metric)} is a share of one; write "
            f"--at {typed}={amount / 100:g}, or {amount:g}%"
        )
    return EvaluationPoint("reach", amount, metric)


def _cost(metric: str) -> bool:
    return metric.split("/")[0] in ("comm", "privacy", "time")


def headline(run: RunRecords) -> str:
    """The metric a run is judged by, by which rounds count as evaluated and are chosen."""
    told = (run.summary or {}).get("headline")
    return str(told or evaluated(run.config["task"]["metrics"][0]))


def record_at(run: RunRecords, point: EvaluationPoint) -> RoundRecord | None:
    """The round of a run that an evaluation point means; None where it never had it.

    ``final`` is the last evaluated round, ``best-validation`` the first with the best headline,
    ``round`` that very round, which must have been evaluated, a budget the last evaluated round by
    which no more was spent (bytes: of all clients together), and ``reach`` the first evaluated one
    with a score at least as good.
    """
    metric = point.metric or headline(run)
    sign = 1.0 if higher_is_better(metric) else -1.0
    scored = [r for r in run.rounds if math.isfinite(r.metrics.get(metric, math.nan))]
    if point.kind == "round":
        scored = [record for record in scored if record.round == point.amount]
    if point.kind == "reach":
        scored = [r for r in scored if sign * (r.metrics[metric] - point.amount) >= 0][:1]
    if cost := _BUDGETS.get(point.kind):
        spent = [(record, cost_at(run, record.round, cost)) for record in scored]
        scored = [r for r, amount in spent if amount is not None and amount <= point.amount]
    if not scored:
        return None
    if point.kind == "best-validation":
        return max(scored, key=lambda record: (sign * record.metrics[metric], -record.round))
    return scored[-1]


def value_of(run: RunRecords, point: EvaluationPoint, metric: str) -> float | None:
    """The latest finite value of a metric or a cost by an evaluation point; None without any.

    Sums and evaluations are not recorded in every round: what holds at a round is the last.
    """
    record = record_at(run, point)
    if record is None:
        return None
    return (cost_at if metric in COSTS else _latest)(run, record.round, metric)


def cost_at(run: RunRecords, number: int, cost: str) -> float | None:
    """What was spent by the end of a round: one of ``COSTS``; None where nobody recorded it.

    Bytes are of all clients together, seconds of the rounds without their evaluations.
    """
    if cost == "round":
        return float(number)
    if cost == "epsilon":
        private = run.config["privacy"]["unit"] != "none"
        return _latest(run, number, EPSILON) if number or not private else 0.0
    if number == 0:
        return 0.0
    if cost == "seconds":
        times = [
            r.metrics.get(ROUND_SECONDS, math.nan) for r in run.rounds if 0 < r.round <= number
        ]
        return sum(times) if times and all(map(math.isfinite, times)) else None
    keys = (UPLINK_TOTAL, DOWNLINK_TOTAL)[: 1 + (cost == "total_bytes")]
    sums = [_latest(run, number, key) for key in keys]
    return None if None in sums else sum(value for value in sums if value is not None)


def _latest(run: RunRecords, number: int, metric: str) -> float | None:
    """The last finite value by a round."""
    earlier = [r.metrics.get(metric, math.nan) for r in run.rounds if r.round <= number]
    finite = [value for value in earlier if math.isfinite(value)]
    return float(finite[-1]) if finite else None


def more_is_better(metric: str) -> bool:
    """Whether more of a metric is better; of a cost it is not."""
    return metric not in COSTS and higher_is_better(metric)


def full_name(metric: str, runs: Iterable[RunRecords]) -> str:
    """``accuracy`` as ``eval/accuracy``; some run must have recorded it, or it is a cost.

    Raises:
        ConfigError: for one that no run recorded; names the nearest.
    """
    recorded = sorted({name for run in runs for record in run.rounds for name in record.metrics})
    for name in (metric, evaluated(metric)):
        if name in recorded or name in COSTS:
            return name
    raise choose("--metric", metric, (*recorded, *COSTS))
