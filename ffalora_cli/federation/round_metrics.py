"""Computes the metrics of a round's training from the engine's counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ffalora_cli.engine.job import LocalResult
from ffalora_cli.metric_keys import (
    CLIPPED,
    DROPPED,
    EXAMPLES,
    HALVINGS,
    LATE,
    NONFINITE,
    PADDING,
    REJECTED,
    ROUND_SECONDS,
    SAMPLES_PER_SECOND,
    TRAIN_LOSS,
    UNITS,
)


def train_metrics(
    results: list[LocalResult], seconds: float, clips: bool = True
) -> dict[str, float]:
    """Cohort sums of a round; loss is the mean over the rows seen, shares are of units.

    ``clips`` is False where every gradient is rescaled and a share of clipped ones says nothing.
    """
    seen = sum(int(r.examples.sum()) for r in results)
    tokens = sum(r.tokens for r in results)
    padded = sum(r.padded_tokens for r in results)
    metrics = {
        ROUND_SECONDS: seconds,
        SAMPLES_PER_SECOND: seen / seconds if seconds > 0 else 0.0,
        EXAMPLES: float(seen),
        NONFINITE: float(sum(int(r.nonfinite.sum()) for r in results)),
        PADDING: 1.0 - tokens / padded if padded else 0.0,
    }
    if any(r.halvings for r in results):
        metrics[HALVINGS] = float(sum(r.halvings for r in results))
    if seen:
        metrics[TRAIN_LOSS] = sum(float(r.loss_sum.sum()) for r in results) / seen
    units = sum(int(r.units.sum()) for r in results)
    if units != seen:
        metrics[UNITS] = float(units)
    if units and clips:
        metrics[CLIPPED] = sum(int(r.clipped.sum()) for r in results) / units
    return metrics


def arrival_metrics(
    dropped: int, late: int, rejected: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Clients that did not answer, and uploads that came too late or broke the contract."""
    return {
        DROPPED: float(dropped),
        LATE: float(late),
        REJECTED: float(len(rejected)),
    }


def of_clients(parts: Sequence[np.ndarray], chosen: np.ndarray) -> np.ndarray:
    """A round's counts ``[cohort]`` from those of its chunks; exchanges are added up."""
    counts: np.ndarray = np.concatenate(parts)
    return counts.reshape(-1, len(chosen)).sum(0) if len(chosen) else counts


def client_lines(
    chosen: np.ndarray, results: list[LocalResult], limit: int = 100
) -> tuple[dict[str, float], ...]:
    """Per-client facts of a round (private: they stay in the run folder), for small cohorts."""
    if len(chosen) > limit or not results:
        return ()
    losses = of_clients([r.loss_sum for r in results], chosen)
    seen = of_clients([r.examples for r in results], chosen)
    clipped = of_clients([r.clipped for r in results], chosen)
    nonfinite = of_clients([r.nonfinite for r in results], chosen)
    return tuple(
        {
            "client": int(client),
            "examples": int(n),
            "loss": float(loss / n) if n else float("nan"),
            "clipped": int(cut),
            "nonfinite": int(dropped),
        }
        for client, n, loss, cut, dropped in zip(
            chosen, seen, losses, clipped, nonfinite, strict=True
        )
    )
