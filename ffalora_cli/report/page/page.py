"""Writes one self-contained HTML page about some runs, from their records."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Any

import ffalora_cli
from ffalora_cli.config.errors import ConfigError, counted
from ffalora_cli.metric_keys import EPSILON, UPLINK, bytes_of, evaluated
from ffalora_cli.privacy.rounding import bound_of_delta, largest_client
from ffalora_cli.records.leaving import metric_may_leave, released, without_folder
from ffalora_cli.records.manifest import code_of, joined
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.report.figures import clients, curves, mechanism, pareto
from ffalora_cli.report.figures.files import INK, inline_svg
from ffalora_cli.report.figures.series import group_runs
from ffalora_cli.report.figures.style import styled
from ffalora_cli.report.runs.moments import full_name, headline
from ffalora_cli.report.runs.settings import differing, setting
from ffalora_cli.report.table.compare import compare
from ffalora_cli.report.table.formats import Grid, text
from ffalora_cli.report.table.of_run import shareable
from ffalora_cli.report.table.rows import Question
from ffalora_cli.report.table.side_by_side import grid

if TYPE_CHECKING:
    from ffalora_cli.report.figures.style import Picture

UNFINISHED = Grid(("none of these runs is finished",), (), words=1, notes=())
WITHHELD = "withheld"
KINDS = ("uplink", "downlink", "adapter", "head", "merge", "index", "setup", "framing")


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
        public = evaluated(run.config["task"]["metrics"][0])
        for metric in asked or [headline(run)]:
            if not metric_may_leave(metric, _unit(run)):
                raise ConfigError(
                    f"--metric {metric}: of the private run {run.path.name} it may not leave the "
                    f"folder; choose another, as in --metric {public}"
                )
    runs = [released(run) for run in runs]
    results, metric = _results(runs, question)
    figures, absent = _figures(runs, question, metric)
    finished = sum(run.finished for run in runs)
    now = datetime.now(UTC)
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        title=_title(runs),
        about=f"{counted(len(runs), 'run')}, {finished} of them finished",
        results=results,
        figures=figures,
        figure_notes=absent,
        runs=[_sections(run) for run in runs],
        differences=_differences(runs),
        bytes=_bytes(runs),
        foot=f"Made by ffalora {ffalora_cli.__version__} on {now:%Y-%m-%d %H:%M} UTC.",
    )


def _results(runs: Sequence[RunRecords], question: Question) -> tuple[Grid, str]:
    """The table of ``compare`` without bytes that tell who took part; the metric that is drawn."""
    if not any(run.finished for run in runs):
        return UNFINISHED, (question.metrics or (headline(runs[0]),))[0]
    comparison = compare(runs, question)
    table = text(grid(comparison))
    if not all(_bytes_may_leave(run) for run in comparison.runs):
        sent = [title.startswith("up ") for title in table.head]
        rows = [
            tuple(WITHHELD if mine else cell for cell, mine in zip(row, sent, strict=True))
            for row in table.rows
        ]
        table = replace(table, rows=tuple(rows))
    return table, comparison.metrics[0]


def _figures(
    runs: Sequence[RunRecords], question: Question, metric: str
) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Every picture that these runs have the numbers for, and why the others are not there."""
    grouping = group_runs(runs, question.by, question.over)
    costs = group_runs(runs, question.by, question.over, unlabelled="privacy")
    makers: list[Callable[[], Picture]] = [lambda: curves.draw(grouping, "round", metric)]
    notes = [*grouping.notes]
    if all(_bytes_may_leave(run) for run in runs):
        makers.append(lambda: curves.draw(grouping, "uplink_bytes", metric))
        if len(costs.groups) > 1:
            makers.append(lambda: pareto.draw(costs, "total_bytes", metric))
    else:
        notes.append("no picture of bytes: they follow from who took part in a private run")
    if any(_unit(run) != "none" for run in runs):
        makers.append(lambda: curves.draw(grouping, "epsilon", metric))
        makers.append(lambda: curves.draw(grouping, "round", EPSILON))
    else:
        makers.append(lambda: clients.draw(grouping))
    if any(run.config.get("diagnostics") == "mechanism" for run in runs):
        makers.append(lambda: mechanism.draw(grouping))
    figures: list[Mapping[str, Any]] = []
    with styled(INK):
        for number, make in enumerate(makers):
            try:
                picture = make()
            except ConfigError as reason:  # one picture less, not one page less
                notes.append(f"not drawn: {reason}")
                continue
            svg = inline_svg(picture, f"figure{number}")
            own = [note for note in picture.notes if note not in notes]
            figures.append({"svg": svg, "words": picture.words, "notes": own})
    return figures, notes


def _title(runs: Sequence[RunRecords]) -> str:
    methods = sorted({str(run.config["method"]["name"]) for run in runs})
    tasks = sorted({str(run.config["task"]["name"]) for run in runs})
    return f"{', '.join(methods)} on {', '.join(tasks)}"


def _sections(run: RunRecords) -> dict[str, Any]:
    """What the page says about one run, from its records alone."""
    said = run.privacy or {}
    claim = "no privacy: nothing is promised about single examples or clients"
    if run.privacy is not None:
        claim = str(said["sentence"])
    elif _unit(run) != "none":
        claim = "private, but it stopped before its statement was written: nothing is claimed"
    command = [without_folder(str(word)) for word in run.manifest.get("command") or ()]
    known = "its command was not recorded; its config.yaml has every key"
    return {
        "name": run.path.name,
        "state": _state(run),
        "claim": claim,
        "privacy": _privacy(said) if "protects" in said else [],  # an earlier schema may lack some
        "outside": list(said.get("outside") or ()),
        "command": shlex.join(command) if command else f"# {run.path.name}: {known}",
        "provenance": _provenance(run.manifest),
        "tables": shareable(run),
    }


def _bytes(runs: Sequence[RunRecords]) -> Grid:
    """Bytes by direction and kind, all clients and rounds together; and what to know of them."""
    notes = ["both directions are the sum of the kinds to their right; MB are 10^6 bytes"]
    rows = []
    for run in runs:
        totals = {key: value for record in run.rounds for key, value in record.metrics.items()}
        shown = [_megabytes(totals.get(bytes_of(kind, total=True))) for kind in KINDS]
        rows.append((run.path.name, *(shown if _bytes_may_leave(run) else [WITHHELD] * len(KINDS))))
    if not all(_bytes_may_leave(run) for run in runs):
        notes.append(
            "withheld: bytes follow from who took part, which a guarantee per client protects"
        )
    head = ("run", *(f"{kind.replace('setup', 'set-up')}, MB" for kind in KINDS))
    return Grid(head, tuple(rows), 1, tuple(notes))


def _differences(runs: Sequence[RunRecords]) -> Grid:
    """Keys that can change results and differ, one column a run."""
    found, following = differing(runs, "")
    rows = tuple((key, *(setting(run, key) for run in runs)) for key in (*found, *following))
    head = ("key", *(f"…{run.path.name[-12:]}" for run in runs))
    return Grid(head, rows, len(head), ())


def _bytes_may_leave(run: RunRecords) -> bool:
    return metric_may_leave(UPLINK, _unit(run))


def _unit(run: RunRecords) -> str:
    return str(run.config["privacy"]["unit"])


def _state(run: RunRecords) -> str:
    rounds = run.rounds[-1].round if run.rounds else 0
    wanted = run.config["federation"]["rounds"]
    if run.finished:
        return f"finished after {counted(rounds, 'round')}, made {run.manifest.get('created')}"
    how = f"failed ({run.failure.reason})" if run.failure else "stopped"
    return f"{how} after round {rounds} of {wanted}, begun {run.manifest.get('created')}"


def _privacy(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The parts of a statement in words."""
    pairs = [
        ("protects", said["protects"]),
        ("sampling", said["sampling_note"]),
        ("delta", f"{said['delta']:g}{bound_of_delta(said, 'the largest client')}"),
        ("clip", f"{said['max_grad_norm']:g}, {said['mechanism']['clip_note']}"),
        ("noise", said["noise"]["note"]),
        ("beside it", f"largest client alone, the same noise: {', '.join(largest_client(said))}"),
        ("covered", f"{len(said['covered'])} tensors, uploaded or not"),
        ("library", said["library"]),
    ]
    return [(name, str(text)) for name, text in pairs if text]


def _provenance(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Which code, data, weights and seeds made the numbers."""
    versions = {"Python": manifest.get("python"), **(manifest.get("versions") or {})}
    versions = {name: version for name, version in versions.items() if version}
    base = manifest.get("model") or {}
    pairs = [
        ("code", code_of(manifest)),
        ("versions", joined(versions)),
        ("machine", f"{manifest.get('device')}, {manifest.get('platform')}"),
        ("data", joined(manifest.get("data_fingerprints"))),
        ("base", f"{base['source']} commit {base['commit']}" if base.get("commit") else ""),
        ("weights", str(manifest.get("model_fingerprint"))),
        ("seeds", joined(manifest.get("seeds"))),
        ("signature", str(manifest.get("signature"))),
    ]
    return [(name, text) for name, text in pairs if text]


def _megabytes(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return "0" if value == 0 else f"{value / 1e6:.6f}" if value < 1e4 else f"{value / 1e6:,.3f}"
