"""Writes one self-contained HTML page about some runs, from their records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING

import ffalora_cli
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.metric_keys import UPLINK, evaluated
from ffalora_cli.records.leaving import metric_may_leave, released
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.report import clients_figure, curves, pareto
from ffalora_cli.report.comparison import Question, compare, full_name, headline
from ffalora_cli.report.formats import grid
from ffalora_cli.report.page_sections import (
    Table,
    byte_table,
    difference_table,
    results,
    run_section,
)
from ffalora_cli.report.series import group_runs
from ffalora_cli.report.style import INK, inline_svg, styled

if TYPE_CHECKING:
    from ffalora_cli.report.style import Picture

UNFINISHED = Table("results", ["none of these runs is finished"], (), words=1)


@dataclass(frozen=True)
class Figure:
    """A picture of the page; all that the template fills in is escaped but its ``svg``."""

    svg: str
    words: str
    notes: Sequence[str]


def page(runs: Sequence[RunRecords], question: Question) -> str:
    """The page as HTML.

    It is made from what may leave the run folders (``records/leaving.py``): a page is to be shared.

    Args:
        runs: to report on, finished or not.
        question: how ``compare`` should put them side by side; its first metric is drawn.

    Raises:
        ConfigError: where ``compare`` refuses, or the metric may not leave a private run.
    """
    from jinja2 import Environment, StrictUndefined

    asked = [full_name(name, runs) for name in question.metrics]
    for run in runs:
        for metric in asked or [headline(run)]:
            if not metric_may_leave(metric, run.config["privacy"]["unit"]):
                raise ConfigError(
                    f"--metric {metric}: of the private run {run.path.name} it may not leave the "
                    "folder; choose another, as in --metric eval/accuracy"
                )
    runs = [released(run) for run in runs]
    table, notes, metric = _results(runs, question)
    figures, absent = _figures(runs, question, metric)
    bytes_, byte_notes = byte_table(runs)
    now = datetime.now(UTC)
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        title=_title(runs),
        about=f"{len(runs)} runs, {sum(run.finished for run in runs)} of them finished",
        results=table,
        result_notes=notes,
        figures=figures,
        figure_notes=absent,
        runs=[run_section(run) for run in runs],
        differences=difference_table(runs),
        bytes=bytes_,
        byte_notes=byte_notes,
        foot=f"Made by ffalora {ffalora_cli.__version__} on {now:%Y-%m-%d %H:%M} UTC.",
    )


def _results(runs: Sequence[RunRecords], question: Question) -> tuple[Table, Sequence[str], str]:
    """The table of ``compare``, its notes, and the metric that is drawn."""
    if not any(run.finished for run in runs):
        return UNFINISHED, (), (question.metrics or (evaluated("accuracy"),))[0]
    comparison = compare(runs, question)
    table = grid(comparison)
    return results(table, comparison.runs), table.notes, comparison.metrics[0]


def _figures(
    runs: Sequence[RunRecords], question: Question, metric: str
) -> tuple[list[Figure], list[str]]:
    """Every picture that these runs have the numbers for, and why the others are not there."""
    grouping = group_runs(runs, question.by, question.over)
    costs = group_runs(runs, question.by, question.over, unlabelled="privacy")
    units = {str(run.config["privacy"]["unit"]) for run in runs}
    makers: list[Callable[[], Picture]] = [lambda: curves.draw(grouping, "round", metric)]
    notes = [*grouping.notes]
    if all(metric_may_leave(UPLINK, unit) for unit in units):
        makers.append(lambda: curves.draw(grouping, "uplink_bytes", metric))
        if len(costs.groups) > 1:
            makers.append(lambda: pareto.draw(costs, "total_bytes", metric))
    else:
        notes.append("no picture of bytes: they follow from who took part in a private run")
    if units != {"none"}:
        makers.append(lambda: curves.draw(grouping, "epsilon", metric))
    else:
        makers.append(lambda: clients_figure.draw(grouping, "accuracy_own_labels"))
    figures = []
    with styled(INK):
        for number, make in enumerate(makers):
            try:
                picture = make()
            except ConfigError as reason:  # one picture less, not one page less
                notes.append(f"not drawn: {reason}")
                continue
            svg = inline_svg(picture, f"figure{number}")
            own = [note for note in picture.notes if note not in notes]
            figures.append(Figure(svg, picture.words, own))
    return figures, notes


def _title(runs: Sequence[RunRecords]) -> str:
    methods = sorted({str(run.config["method"]["name"]) for run in runs})
    tasks = sorted({str(run.config["task"]["name"]) for run in runs})
    return f"{', '.join(methods)} on {', '.join(tasks)}"
