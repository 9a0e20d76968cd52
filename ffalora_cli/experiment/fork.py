"""Begins a new run from the last round of another: its state and records, its own identity."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.signature import digest
from ffalora_cli.experiment.identity import begun_manifest
from ffalora_cli.records.checkpoint import Checkpoint, peek
from ffalora_cli.records.files import append, read_json_lines, to_json, write_whole
from ffalora_cli.records.journal import Journal
from ffalora_cli.records.run_directory import FORKS, LEDGER

if TYPE_CHECKING:
    from ffalora_cli.experiment.session import Session
    from ffalora_cli.privacy.planning.plan import PrivacyPlan


@dataclass(frozen=True)
class Fork:
    """Where a new run begins: a checkpoint of another, which stays as it is."""

    folder: Path
    checkpoint: Checkpoint
    origin: Mapping[str, Any]  # id, signature, round, state: kept in the new run's manifest


def open_fork(folder: Path) -> Fork:
    """The newest checkpoint of a run, read without touching the run.

    Raises:
        ConfigError: when there is none that verifies.
    """
    manifest, checkpoint = begun_manifest(folder), peek(folder)
    if manifest is None or checkpoint is None:
        raise ConfigError(f"{folder}: holds no checkpoint to fork from; run it for a round first")
    state = digest({name: mark.sha256 for name, mark in checkpoint.marks.items()})
    origin = {
        "id": manifest.get("id"),
        "signature": manifest.get("signature"),
        "round": checkpoint.round,
        "state": state,
    }
    return Fork(folder, checkpoint, origin)


def begin(session: Session, fork: Fork) -> None:
    """Records and state of the checkpoint become the beginning of this run.

    Raises:
        ConfigError: a state of another shape.
    """
    lines = {
        name: _prefix(fork.folder / name, fork.checkpoint.marks[name].bytes) + text
        for name, text in fork.checkpoint.lines.items()
    }
    for journal in session.directory.journals.values():
        journal.rewind(Journal(journal.path).mark())  # of an attempt that got no further
    marks = {name: journal.mark() for name, journal in session.directory.journals.items()}
    ledger = Journal(session.directory.path / LEDGER)
    ledger.catch_up()
    checkpoint = Checkpoint(
        round=fork.checkpoint.round,
        tensors=fork.checkpoint.tensors,
        facts=fork.checkpoint.facts,
        identity=session.stamp,
        marks={**marks, LEDGER: ledger.mark()},
        lines=lines,
        score=fork.checkpoint.score,
    )
    session.checkpoints.write(checkpoint)
    session.take(checkpoint)
    session.notes.append(f"forked from {fork.origin['id']} after round {fork.checkpoint.round}")
    _name_each_other(session, fork)


def _name_each_other(session: Session, fork: Fork) -> None:
    """The original notes its fork: what it spent is spent twice over once both are released."""
    directory = session.directory
    line = {
        "id": directory.id,
        "folder": str(directory.path.resolve()),
        "round": fork.checkpoint.round,
    }
    try:
        known = fork.folder / FORKS
        if not known.exists() or line not in read_json_lines(known)[0]:
            append(known, to_json(line))
    except (OSError, ConfigError) as error:
        session.notes.append(
            f"{fork.folder.name} cannot note this fork ({error}): its statement will not name it"
        )


def carry_ledger(fork: Fork, plan: PrivacyPlan | None, path: Path) -> None:
    """What the other run spent is spent here too: its charges, before the first of our own.

    Charges beyond the checkpoint are kept as well, as of its round: those releases were made, and
    ours of the same rounds have other noise.

    Raises:
        ConfigError: for a private run whose mechanism is not the other run's.
    """
    from ffalora_cli.privacy.ledger import PrivacyLedger

    if plan is None or path.exists():
        return
    rows = read_json_lines(fork.folder / LEDGER)[0]
    mechanism = (plan.noise_multiplier, plan.accounted_rate)
    header = PrivacyLedger(*mechanism, count_noise=plan.count_noise).header()
    if not rows or rows[0] != json.loads(json.dumps(header)):
        raise ConfigError(
            f"--fork: {fork.folder.name} spent its budget by another mechanism (noise or rate), "
            "which does not add up to one claim; keep privacy and batch, or set privacy=none"
        )
    last = fork.checkpoint.round
    carried = [rows[0], *({**row, "round": min(row["round"], last)} for row in rows[1:])]
    write_whole(path, b"".join(to_json(row) for row in carried))


def _prefix(path: Path, size: int) -> bytes:
    if size == 0:
        return b""
    with path.open("rb") as stream:
        return stream.read(size)
