"""Formats the round table, as many columns as fit: the same live, piped and in ``show``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ffalora_cli.cli.screen.units import human_bytes, human_seconds, number, score
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import Config
from ffalora_cli.metric_keys import (
    DOWNLINK_TOTAL,
    EPSILON,
    LOSS,
    SAMPLES_PER_SECOND,
    UPLINK_TOTAL,
    evaluated,
    of_clients,
    own_labels,
    personalized,
)
from ffalora_cli.privacy.rounding import epsilon_text


@dataclass(frozen=True)
class Line:
    """One evaluated round as the table shows it."""

    round: int
    rounds: int
    metrics: Mapping[str, float]
    remaining: float | None = None  # seconds to the end, as far as known


@dataclass(frozen=True)
class Column:
    """A heading, its width, and the cell under it."""

    title: str
    width: int
    cell: Callable[[Line], str]


def columns(config: Config, live: bool = True) -> list[Column]:
    """The columns that say something about this run.

    Args:
        config: decides the headline metric, and whether there is an epsilon or a client average.
        live: with speed and time left, which a finished run no longer has.
    """
    headline, rounds = config.task.metrics[0], config.federation.rounds
    chosen = [
        Column("round", max(9, 2 * len(str(rounds)) + 1), lambda m: f"{m.round}/{m.rounds}"),
        Column(
            headline,
            max(9, len(headline)),
            lambda m: score(headline, m.metrics.get(evaluated(headline))),
        ),
    ]
    own = _of_clients(config)
    if own is not None:
        title, key = own
        chosen.append(Column(title, 9, lambda m: score(key, m.metrics.get(key))))
    chosen.append(Column("loss", 6, lambda m: score("loss", m.metrics.get(LOSS))))
    if config.privacy.unit != "none":
        chosen.append(Column("epsilon", 8, lambda m: epsilon_text(m.metrics.get(EPSILON))))
    chosen.append(Column("up", 8, lambda m: human_bytes(m.metrics.get(UPLINK_TOTAL))))
    chosen.append(Column("down", 8, lambda m: human_bytes(m.metrics.get(DOWNLINK_TOTAL))))
    if live:
        speed = SAMPLES_PER_SECOND
        chosen.append(Column("samples/s", 9, lambda m: number(m.metrics.get(speed), 0)))
        chosen.append(Column("ETA", 7, lambda m: _left(m.remaining)))
    return chosen


def filled(chosen: list[Column], lines: Sequence[Line]) -> list[Column]:
    """The columns that have something to say in any of the rounds."""
    return [column for column in chosen if any(column.cell(m) != "-" for m in lines)]


_FIRST_TO_GO = ("samples/s", "down", "loss", "up", "personal", "own-label", "ETA", "epsilon")


def fitting(chosen: list[Column], width: int) -> list[Column]:
    """The columns that a line of this width holds; those a person misses least give way.

    Round and headline always stay: a number is never cut.
    """
    kept = list(chosen)
    for title in _FIRST_TO_GO:
        if len(heading(kept)) <= width:
            break
        kept = [column for column in kept if column.title != title]
    return kept


def heading(chosen: list[Column]) -> str:
    """The titles as one line of text."""
    return " ".join(column.title.rjust(column.width) for column in chosen)


def row(chosen: list[Column], line: Line) -> str:
    """One round as one line of text."""
    return " ".join(column.cell(line).rjust(column.width) for column in chosen)


def _left(seconds: float | None) -> str:
    """Time left; of ten hours and more, in hours: seconds would not fit, and mean nothing."""
    if seconds is not None and 36_000 <= seconds < math.inf:
        return f"{seconds / 3600:.0f} h"
    return human_seconds(seconds)


def _of_clients(config: Config) -> tuple[str, str] | None:
    """Title and metric of the clients' average: of own models, or of the global one on own labels.

    None where neither is recorded.
    """
    from ffalora_cli.methods import registry
    from ffalora_cli.tasks import registry as tasks

    try:
        metric = tasks.get(config.task.kind).client_metric
        own = config.head.mode == "personal" or bool(registry.get(config.method.name).personal)
    except ConfigError:  # of a package that is not on this machine: its runs are shown all the same
        return None
    if own:
        return "personal", personalized(metric)
    if config.federation.eval_clients:
        return "own-label", own_labels(of_clients(metric))
    return None
