"""Tabulates our numbers with published ones: never in one mean, with every difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from ffalora_cli.config.errors import ConfigError, choose, listed
from ffalora_cli.metric_keys import evaluated, short_name
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.report.csv_text import csv_text
from ffalora_cli.report.runs import statistics
from ffalora_cli.report.runs.moments import value_of
from ffalora_cli.report.runs.settings import (
    MEANINGLESS,
    differences,
    differing,
    grouped,
    once,
    setting,
    title,
)
from ffalora_cli.report.table.formats import Grid, strict_json
from ffalora_cli.report.table.published import GLUE, MARKS, TABLES, Number, Table
from ffalora_cli.report.table.rows import Question

_NOT_RUN, _NOT_FOUND = "not run", "not found"


def table_named(name: str) -> Table:
    """The paper's table that an experiment of ours repeats.

    Raises:
        ConfigError: when there is none; names the nearest.
    """
    for table in TABLES:
        if table.experiment == name:
            return table
    raise choose("--published: experiment", name, [table.experiment for table in TABLES])


def our_numbers(runs: Sequence[RunRecords], table: Table, question: Question) -> list[Number]:
    """Means over seeds of our runs, one a cell; runs of other settings are other sources.

    Args:
        runs: of any tasks; unfinished ones and repetitions are left out.
        table: of the paper.
        question: its evaluation point and the key averaged over.

    Raises:
        ConfigError: when runs of one cell were scored on other rows.
    """
    finished, _ = once([run for run in runs if run.finished])
    columns, _ = differing(finished, question.over) if finished else ([], [])
    others = [key for key in columns if key not in ("task", "method", table.axis)]
    others = [key for key in others if not key.startswith("task.")]

    def cell(run: RunRecords) -> tuple[str, str, str, str]:
        ours = ", ".join(["ours", *(f"{title(key)} {setting(run, key)}" for key in others)])
        return setting(run, "task"), setting(run, table.axis), setting(run, "method"), ours

    numbers = []
    for (task, value, method, source), members in grouped(finished, cell).items():
        for aspect, values in differences(members, MEANINGLESS).items():
            raise ConfigError(
                f"--published: {aspect.name} differ in one cell ({task}, {method}): "
                f"{listed(values)}; select runs of one"
            )
        for metric in _metrics(task):
            found = [value_of(run, question.point, metric) for run in members]
            sample = statistics.summarize([100 * v for v in found if v is not None])
            if sample.count:
                shown = (sample.mean, sample.half_width, sample.count)
                numbers.append(Number(task, metric, value, method, source, "", *shown))
    return numbers


def with_published(
    table: Table, ours: Sequence[Number], runs: Sequence[RunRecords], question: Question
) -> Grid:
    """The paper's table with a line for every source, and what differs in protocol."""
    numbers = [*ours, *table.numbers]
    tasks = {number.task for number in numbers}
    names = question.names
    there = {("lora",), ("ffa_lora",), *((number.method,) for number in numbers)}
    methods = [method for (method,) in names.ordered(["method"], there)]
    extra = sorted({n.setting for n in ours} - set(table.settings))
    asked = [pair for pair in _tasks_and_metrics(tasks) if table.numbers or pair[0] in tasks]
    rows = []
    for task, metric in asked:
        for value in (*table.settings, *extra):
            here = [n for n in numbers if (n.task, n.metric, n.setting) == (task, metric, value)]
            name, shown = _task_title(task, metric), names.value(table.axis, value)
            for source, mark in _sources(here):
                cells = [_cell(here, source, method) for method in methods]
                rows.append((name, shown, f"{source} {mark}".strip(), *cells))
                name = shown = ""
    titles = [names.value("method", method) for method in methods]
    head = ("task", names.key(table.axis), "source", *titles)
    return Grid(head, tuple(rows), 3, tuple(_notes(table, ours, runs, question)))


def as_csv(table: Table, ours: Sequence[Number]) -> str:
    """One line a number; empty for what its source does not say."""
    numbers = [asdict(number) for number in (*ours, *table.numbers)]
    return csv_text(numbers, list(Number.__dataclass_fields__)).rstrip("\n")


def as_json(
    table: Table, ours: Sequence[Number], runs: Sequence[RunRecords], question: Question
) -> str:
    """Ours and published apart, strict JSON."""
    return strict_json(
        {
            "table": table.experiment,
            "axis": table.axis,
            "ours": [asdict(number) for number in ours],
            "published": [asdict(number) for number in table.numbers],
            "notes": _notes(table, ours, runs, question),
        }
    )


def _metrics(task: str) -> list[str]:
    return [metric for name, metric in GLUE if name == task] or [evaluated("accuracy")]


def _tasks_and_metrics(tasks: set[str]) -> list[tuple[str, str]]:
    """Tasks and metrics in the papers' order, then tasks of ours alone."""
    others = sorted(tasks - {name for name, _ in GLUE})
    return [*GLUE, *((task, evaluated("accuracy")) for task in others)]


def _sources(here: Sequence[Number]) -> list[tuple[str, str]]:
    """Sources with a number here and their marks; ours first, and the paper even without one."""
    sources = list(dict.fromkeys((n.source, n.mark) for n in here))
    if not any(mark == "" for _, mark in sources):
        sources.insert(0, ("ours", ""))
    if not any(source.startswith("paper") for source, _ in sources):
        slot = sum(mark == "" for _, mark in sources)
        sources.insert(slot, ("paper", ""))
    return sources


def _cell(here: Sequence[Number], source: str, method: str) -> str:
    for number in here:
        if (number.source, number.method) == (source, method):
            text = f"{number.value:.2f}"
            text += f" ± {number.spread:.2f}" if number.spread is not None else ""
            return text if number.mark else f"{text} ({number.count})"
    if source.startswith("ours"):
        return _NOT_RUN
    known = source == "paper" and method in ("lora", "ffa_lora")
    return _NOT_FOUND if known else "-"


def _task_title(task: str, metric: str) -> str:
    kind = short_name(metric).removesuffix("accuracy").rstrip("/")
    return {("mnli", ""): "mnli (m)", ("mnli", "validation_mismatched"): "mnli (mm)"}.get(
        (task, kind), task
    )


def _notes(
    table: Table, ours: Sequence[Number], runs: Sequence[RunRecords], question: Question
) -> list[str]:
    """Provenance, and where our protocol is not the paper's."""
    found = ["accuracy, % ± half-width of the 95 % interval of the mean (runs of ours)"]
    used = {number.mark for number in table.numbers}
    if used:
        found.append("; ".join(f"{mark}: {MARKS[mark]}" for mark in MARKS if mark in used))
    found.append(table.found)
    if ours and question.point.kind != "final":
        found.append(f"ours: at {question.point}")
    if ours and question.point.kind == "best-validation":
        found.append("that round was chosen on the rows that score it, so ours are optimistic")
    finished = [run for run in runs if run.finished]
    for key, paper in table.protocol.items():
        own = sorted({setting(run, key) for run in finished} - {"null"})
        if own and own != [paper]:
            found.append(f"protocol: {key} is {listed(own)} here, {paper} in the paper")
    if not ours:
        found.append(f"nothing of it was run yet: ffalora sweep experiment={table.experiment}")
    return found
