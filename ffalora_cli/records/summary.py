"""Computes the result of a finished run from its round records alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ffalora_cli.records.run_directory import SCHEMA_VERSION
from ffalora_cli.types import RoundRecord


def summarize(
    records: Sequence[RoundRecord],
    headline: str,
    seconds: float,
    extra: Mapping[str, Any] | None = None,
    higher: bool = True,
) -> dict[str, Any]:
    """Build ``summary.json``.

    Args:
        records: all rounds, round 0 included, in order.
        headline: the metric a run is judged by, e.g. ``eval/accuracy``.
        seconds: wall clock of the whole run.
        extra: further facts (privacy, notes); may not replace the keys below.
        higher: whether more of the headline is better.

    Returns:
        ``final`` holds the last value of every metric and ``value`` that of the headline: the
        number to report. ``best`` is the best evaluated round; it was chosen by looking at the
        evaluation split and is optimistic. ``initial`` are the metrics of round 0.

    Raises:
        ValueError: when no round was recorded or ``extra`` repeats a key.
    """
    if not records:
        raise ValueError("no round was recorded")
    final: dict[str, float] = {}
    for record in records:
        final.update(record.metrics)
    result = {
        "schema_version": SCHEMA_VERSION,
        "status": "finished",
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "rounds": records[-1].round,
        "headline": headline,
        "value": final.get(headline),
        "initial": dict(records[0].metrics) if records[0].round == 0 else {},
        "final": final,
        "best": best_round(records, headline, higher),
    }
    repeated = sorted(result.keys() & (extra or {}).keys())
    if repeated:
        raise ValueError(f"{repeated[0]!r} is set by the summary itself")
    return {**result, **(extra or {})}


def best_round(
    records: Sequence[RoundRecord], metric: str, higher: bool = True
) -> dict[str, Any] | None:
    """First round with the best finite value of a metric: ``{"round", "value"}``."""
    sign = 1.0 if higher else -1.0
    points = [
        (sign * record.metrics[metric], -record.round)
        for record in records
        if math.isfinite(record.metrics.get(metric, math.nan))
    ]
    if not points:
        return None
    value, negative_round = max(points)
    return {"round": -negative_round, "value": sign * value}
