"""Draws how every client fares: one row a group of runs, one dot a client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import TEXT_CLASSIFICATION
from ffalora_cli.metric_keys import own_labels
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.report.figures.places import arranged
from ffalora_cli.report.figures.series import Grouping
from ffalora_cli.report.figures.style import Picture, new_figure, plain_numbers, plain_x
from ffalora_cli.tasks import registry
from ffalora_cli.tasks.registry import higher_is_better, is_percent

_SPREAD = 0.28  # of a row's height: dots are spread over it so that they do not hide one another


def measures(run: RunRecords) -> dict[str, tuple[str, str]]:
    """What clients are scored by in a run: its words, and what to do where no run has it."""
    kind = run.config["task"].get("kind", TEXT_CLASSIFICATION)
    metric = registry.get(kind).client_metric
    own = own_labels(metric)
    one_by_one = "clients were not scored one by one; run with federation.eval_clients=true"
    no_models = "there are no models of the clients' own (head.mode=personal, method=fedsa_lora); "
    return {
        own: (f"{metric} on the client's own mix of labels", one_by_one),
        metric: (
            f"{metric} of the client's model on the common split",
            f"{no_models}take --y {own}",
        ),
    }


def draw(grouping: Grouping, measure: str = "") -> Picture:
    """Draw the last recorded scores of every client. To be called under ``style.styled``.

    Args:
        grouping: of ``grouping.group_runs``.
        measure: one of ``measures``; the first by default.

    Raises:
        ConfigError: another measure, or no run that scored its clients.
    """
    known = measures(grouping.runs[0])
    measure = measure or next(iter(known))
    if measure not in known:
        raise ConfigError(f"--y {measure}: clients have {' and '.join(known)}")
    meaning, remedy = known[measure]
    found = {
        group.label: [(run, *pair) for run in group.runs for pair in scores(run, measure)]
        for group in grouping.groups
    }
    found = {label: dots for label, dots in found.items() if dots}
    if not found:
        raise ConfigError(f"--kind clients: {remedy}")
    _, looks = arranged(grouping)
    figure = new_figure(0.5 + 0.36 * len(found))
    axis = figure.subplots()
    for row, (label, dots) in enumerate(found.items()):
        values = np.sort([value for _, _, value in dots])
        look = looks[label].pen
        # The golden ratio spreads any number of sorted dots evenly, the same way every time.
        offsets = (np.arange(len(values)) * 0.618) % 1 - 0.5
        axis.plot(values, row + 2 * _SPREAD * offsets, look.marker, color=look.colour, alpha=0.75)
        axis.plot([values.mean()] * 2, [row - 0.38, row + 0.38], color=look.colour, linewidth=2)
    axis.set_yticks(range(len(found)), [label.replace(", ", "\n") or "all runs" for label in found])
    axis.set_ylim(len(found) - 0.45, -0.55)
    axis.grid(axis="y", visible=False)
    percent = is_percent(measure)
    plain_x(axis)
    axis.xaxis.set_major_formatter(plain_numbers(100.0 if percent else 1.0))
    figure.supxlabel(f"{meaning} (%)" if percent else meaning)
    rows = [
        {"group": label, "run": run.path.name, "client": client, measure: value}
        for label, dots in found.items()
        for run, client, value in dots
    ]
    words = f"{meaning}, one dot a client of a run, the bar is their mean; " + "; ".join(
        _summary(label, [value for *_, value in dots], measure) for label, dots in found.items()
    )
    return Picture(figure, words, rows, _notes(grouping, found, measure))


def scores(run: RunRecords, measure: str) -> list[tuple[int, float]]:
    """(client, score) of each client in the last round that scored it."""
    last = {
        int(line["client"]): float(line[measure])
        for record in run.rounds
        for line in record.clients
        if line.get(measure) is not None
    }
    return sorted(last.items())


def _summary(label: str, values: Sequence[float], measure: str) -> str:
    factor, unit = (100.0, " %") if is_percent(measure) else (1.0, "")
    worst, word = (min, "lowest") if higher_is_better(measure) else (max, "highest")
    return (
        f"{label or 'all runs'}: {len(values)} dots, mean {factor * np.mean(values):.1f}{unit}, "
        f"{word} {factor * worst(values):.1f}{unit}"
    )


def _notes(grouping: Grouping, found: dict[str, Any], measure: str) -> tuple[str, ...]:
    notes = [*grouping.notes, *grouping.absent(found, "scores of clients")]
    units = {run.config["privacy"]["unit"] for run in grouping.runs}
    if "client" in units or (measure.endswith(own_labels("")) and units != {"none"}):
        notes.append(
            "private runs among them: these scores are no part of the guarantee, keep the picture"
        )
    return tuple(notes)
