"""Words a tune: the table of what was tried, what was chosen, and what all of it costs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ffalora_cli.cli.screen.units import human_seconds, score
from ffalora_cli.cli.tuning.asked import Asked, label
from ffalora_cli.cli.tuning.stages import Tune
from ffalora_cli.config.errors import counted
from ffalora_cli.metric_keys import short_name
from ffalora_cli.privacy.rounding import epsilon_text
from ffalora_cli.report.names import PAPER
from ffalora_cli.report.runs.selection import value_at
from ffalora_cli.report.runs.statistics import summarize
from ffalora_cli.report.table.formats import BEST, Grid
from ffalora_cli.sweep.jobs import FAILED
from ffalora_cli.sweep.progress import result
from ffalora_cli.sweep.tuning import Cell, at_edge, best, best_for_all, place


def tried(tune: Tune) -> list[dict[str, Any]]:
    """A line a cell and setting, in the units of the records; None for what is not there."""
    asked, lines = tune.asked, []
    for n, cell in enumerate(asked.cells):
        chosen = best(cell.worth, asked.higher)
        for setting in sorted(cell.worth, key=place):
            jobs, values = tune.trials[n, setting], tune.values(n, setting)
            known = cell.worth[setting] is not None
            sample = summarize([value for value in values if value is not None])
            ends = [tune.batches.statuses[job.number] for job in jobs]
            failures = [e.ended.error or "" for e in ends if e.state == FAILED and e.ended]
            summaries = [result(job.path) for job in jobs]
            spent = [value_at(one, "privacy.epsilon_max.spent") for one in summaries]
            lines.append(
                {
                    **cell.settings,
                    **asked.set_to(setting),
                    f"{asked.metric}:mean": cell.worth[setting],
                    f"{asked.metric}:sd": sample.sd,
                    "seeds": " ".join(asked.tuning_seeds),
                    "epsilon": max((e for e in spent if isinstance(e, float)), default=None),
                    "seconds": sum(one.get("seconds") or 0.0 for one in summaries),
                    "chosen": setting == chosen,
                    "failure": next(iter(failures), None if known else "its score is not finite"),
                    "runs": " ".join(job.path.name for job in jobs),
                }
            )
    return lines


def grid(tune: Tune) -> Grid:
    """The table for people: scores in percent, failures in words, what was chosen marked."""
    lines, asked = tried(tune), tune.asked
    keys, metric = [*asked.compared, *asked.keys], asked.metric
    columns = {
        PAPER.key(key): [PAPER.value(key, str(line[key])) for line in lines] for key in keys
    } | {
        short_name(metric): [score(metric, line[f"{metric}:mean"]) for line in lines],
        "sd": [score(metric, line[f"{metric}:sd"]) for line in lines],
        "ε": [epsilon_text(line["epsilon"]) for line in lines],
        "time": [human_seconds(line["seconds"] or None) for line in lines],
        "failure": [(line["failure"] or "-")[:60] for line in lines],
    }
    kept = {name: cells for name, cells in columns.items() if {"-"} != set(cells)}
    marks = {(i, len(keys)): BEST for i, line in enumerate(lines) if line["chosen"]}
    return Grid(
        tuple(kept),
        tuple(zip(*kept.values(), strict=True)),
        len(keys),
        tuple(notes(tune)),
        marks=marks,
        legend={BEST: "chosen"},
    )


def notes(tune: Tune) -> list[str]:
    """What was chosen and by what; both conventions; edges; failures."""
    asked = tune.asked
    seeds = f"seed{'s' if len(asked.tuning_seeds) > 1 else ''} {', '.join(asked.tuning_seeds)}"
    found = [
        f"{short_name(asked.metric)} after the last round on held-out tuning rows "
        f"(task.eval_on=tune), {seeds}, none of the reported ones; chosen is the best, of two "
        f"alike the smaller; {_numbers(asked.cells)}"
    ]
    chosen = {n: best(cell.worth, asked.higher) for n, cell in enumerate(asked.cells)}
    for n, cell in enumerate(asked.cells):
        one = chosen[n]
        if one is None:
            found.append(f"{_name(cell)}every setting failed, so none is chosen")
            continue
        typed, worth = " ".join(asked.typed(one)), score(asked.metric, cell.worth[one])
        found.append(f"each at its best: {_name(cell)}{typed} {worth}")
        found += [
            f"{_name(cell)}{PAPER.key(asked.keys[axis])} {one[axis]} is at the edge of what was "
            "tried; more --refine goes on there, or give other values"
            for axis in at_edge(cell.worth, one)
        ]
    if len(asked.cells) > 1:
        found.append(_shared(asked))
    return found


def _shared(asked: Asked) -> str:
    together = best_for_all([cell.worth for cell in asked.cells], asked.higher)
    if together is None:
        typed = " ".join(f"{key}=A,B" for key in asked.keys)
        return (
            f"one setting for all: none was tried for each with success; {typed} tries the same "
            "values for each"
        )
    setting, values = together
    said = (
        f"{_name(cell)}{score(asked.metric, value)}"
        for cell, value in zip(asked.cells, values, strict=True)
    )
    typed = " ".join(asked.typed(setting))
    return f"one setting for all: {typed}, the best mean: {', '.join(said)}"


def _numbers(cells: Sequence[Cell]) -> str:
    """How many settings each cell was given: the same, or else each by name."""
    counts = [len(cell.worth) for cell in cells]
    if len(set(counts)) == 1:
        each = " for each" if len(cells) > 1 else ""
        return f"{counted(counts[0], 'setting')}{each}"
    named = (f"{_name(cell)}{counted(n, 'setting')}" for cell, n in zip(cells, counts, strict=True))
    return f"not equally many: {', '.join(named)}"


def _name(cell: Cell) -> str:
    return f"{label(cell)}: " if cell.fixed else ""


def planned(asked: Asked, done: int, forecasts: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many runs there will be, and how long they take.

    Args:
        asked: of the tune.
        done: runs that are finished already, of those that are known before the first trial.
        forecasts: of a trial and a final run of every cell, in turn; empty where none was made.
    """
    cells, tuning, seeds = len(asked.cells), len(asked.tuning_seeds), len(asked.seeds)
    lines = [
        f"tune      {counted(cells, 'cell')} x {counted(asked.trials, 'setting')} x "
        f"{counted(tuning, 'tuning seed')}, then {cells} x {counted(seeds, 'final run')}: "
        f"{counted(asked.runs, 'run')}" + (f", at least {done} of them done" if done else "")
    ]
    times = [found["time"] for found in forecasts]
    if times and all(times):
        counts = itertools.cycle((asked.trials * tuning, seeds))
        seconds = sum(n * time["seconds"] for n, time in zip(counts, times, strict=False))
        error = max(time["error"] for time in times)
        low, high = human_seconds(seconds / (1 + error)), human_seconds(seconds * (1 + error))
        lines.append(
            f"time      about {human_seconds(seconds)} ({low} to {high}) one after another, "
            "loading not counted"
        )
    return lines
