"""Writes what a report says about each run: privacy, bytes, command, origin."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ffalora_cli.metric_keys import UPLINK, bytes_of
from ffalora_cli.privacy.rounding import epsilon_text
from ffalora_cli.records.leaving import metric_may_leave, without_folder
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.report.runs.settings import differing, setting
from ffalora_cli.report.table.formats import Grid

WITHHELD = "withheld"
KINDS = ("uplink", "downlink", "adapter", "head", "merge", "index", "setup", "framing")


@dataclass(frozen=True)
class Table:
    """A table of a page; ``long`` words may wrap."""

    name: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    long: bool = True


@dataclass(frozen=True)
class RunSection:
    """One run's own paragraphs."""

    name: str
    state: str
    claim: str
    privacy: Sequence[tuple[str, str]]  # empty without privacy
    outside: Sequence[str]
    command: str
    provenance: Sequence[tuple[str, str]]


def run_section(run: RunRecords) -> RunSection:
    """The paragraphs of one run, from its records alone."""
    private = run.config["privacy"]["unit"] != "none"
    claim = "no privacy: nothing is promised about single examples or clients"
    if run.privacy is not None:
        claim = str(run.privacy["sentence"])
    elif private:
        claim = "private, but it stopped before its statement was written: nothing is claimed"
    command = [without_folder(str(word)) for word in run.manifest.get("command") or ()]
    known = "its command was not recorded; its config.yaml has every key"
    return RunSection(
        name=run.path.name,
        state=_state(run),
        claim=claim,
        privacy=_privacy(run.privacy or {}),
        outside=list((run.privacy or {}).get("outside") or ()),
        command=shlex.join(command) if command else f"# {run.path.name}: {known}",
        provenance=_provenance(run.manifest),
    )


def results(grid: Grid, runs: Sequence[RunRecords]) -> Table:
    """The table of ``compare``; bytes that would tell who took part are left out."""
    rows: Sequence[Sequence[str]] = grid.rows
    if not all(metric_may_leave(UPLINK, _unit(run)) for run in runs):
        rows = [(*row[:-1], WITHHELD) for row in rows]
    return Table("results", grid.head, rows, grid.words, long=False)


def byte_table(runs: Sequence[RunRecords]) -> tuple[Table, list[str]]:
    """Bytes by direction and kind, all clients and rounds together; and what to know of them."""
    notes = ["both directions are the sum of the kinds to their right; MB are 10^6 bytes"]
    rows = []
    for run in runs:
        if not metric_may_leave(UPLINK, _unit(run)):
            rows.append([run.path.name, *[WITHHELD] * len(KINDS)])
            continue
        totals: dict[str, float] = {}
        for record in run.rounds:
            totals.update(record.metrics)
        names = [bytes_of(kind, total=True) for kind in KINDS]
        rows.append([run.path.name, *(_megabytes(totals.get(name)) for name in names)])
    if any(WITHHELD in row for row in rows):
        notes.append(
            "withheld: bytes follow from who took part, which a guarantee per client protects"
        )
    head = ["run", *(f"{kind.replace('setup', 'set-up')}, MB" for kind in KINDS)]
    return Table("bytes", head, rows), notes


def difference_table(runs: Sequence[RunRecords]) -> Table:
    """Keys that can change results and differ, one column a run."""
    found, following = differing(runs, "")
    keys = [*found, *following]
    rows = [[key, *(setting(run, key) for run in runs)] for key in keys]
    short = [f"…{run.path.name[-12:]}" for run in runs]
    return Table("what differs", ["key", *short], rows, words=len(runs) + 1, long=False)


def _unit(run: RunRecords) -> str:
    return str(run.config["privacy"]["unit"])


def _state(run: RunRecords) -> str:
    rounds = run.rounds[-1].round if run.rounds else 0
    wanted = run.config["federation"]["rounds"]
    if run.finished:
        return f"finished after {rounds} rounds, made {run.manifest.get('created')}"
    how = f"failed ({run.failure.reason})" if run.failure else "stopped"
    return f"{how} after round {rounds} of {wanted}, begun {run.manifest.get('created')}"


def _privacy(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The parts of a statement in words; those of an earlier schema may lack some."""
    if "protects" not in said:
        return []
    largest = said["largest"]
    beside = [f"{name.upper()} {epsilon_text(value)}" for name, value in largest["epsilon"].items()]
    beside.append(f"replace one {epsilon_text(largest['replace_one'])}")
    beside.append(f"without amplification {epsilon_text(largest['no_amplification'])}")
    pairs = [
        ("protects", said["protects"]),
        ("sampling", said["sampling_note"]),
        ("delta", _delta(said)),
        ("clip", f"{said['max_grad_norm']:g}, {said['mechanism']['clip_note']}"),
        ("noise", said["noise"]["note"]),
        ("beside it", f"largest client alone, the same noise: {', '.join(beside)}"),
        ("covered", f"{len(said['covered'])} tensors, uploaded or not"),
        ("library", said["library"]),
    ]
    return [(name, str(text)) for name, text in pairs if text]


def _delta(said: Mapping[str, Any]) -> str:
    if "delta_below_one_over_n" not in said:
        return f"{said['delta']:g}"
    below = "below" if said["delta_below_one_over_n"] else "NOT below"
    return f"{said['delta']:g}; {below} 1/n of the largest client"


def _provenance(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Which code, data, weights and seeds made the numbers."""
    git = manifest.get("git")
    code = f"ffalora {manifest.get('ffalora')}"
    if git:
        code += f" at {str(git['commit'])[:12]}{' with local changes' if git['dirty'] else ''}"
    versions = {"Python": manifest.get("python"), **(manifest.get("versions") or {})}
    base = manifest.get("model") or {}
    pairs = [
        ("code", code),
        ("versions", ", ".join(f"{name} {v}" for name, v in versions.items() if v)),
        ("machine", f"{manifest.get('device')}, {manifest.get('platform')}"),
        ("data", _joined(manifest.get("data_fingerprints"))),
        ("base", f"{base['source']} commit {base['commit']}" if base.get("commit") else ""),
        ("weights", str(manifest.get("model_fingerprint"))),
        ("seeds", _joined(manifest.get("seeds"))),
        ("signature", str(manifest.get("signature"))),
    ]
    return [(name, text) for name, text in pairs if text]


def _joined(values: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in (values or {}).items())


def _megabytes(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return "0" if value == 0 else f"{value / 1e6:.6f}" if value < 1e4 else f"{value / 1e6:,.3f}"
