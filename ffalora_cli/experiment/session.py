"""Starts or resumes a run in its folder, and gets each round on disk."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.signature import digest
from ffalora_cli.methods.registry import headline
from ffalora_cli.records.checkpoint import Checkpoint, CheckpointFolder
from ffalora_cli.records.journal import Journal
from ffalora_cli.records.reading import read_communication, read_run
from ffalora_cli.records.run_directory import LEDGER, RunDirectory, round_lines
from ffalora_cli.tasks.registry import higher_is_better
from ffalora_cli.types import RoundRecord

if TYPE_CHECKING:
    from ffalora_cli.experiment.parts import Parts


@dataclass
class Session:
    """A built run and its claimed folder.

    Attributes:
        parts: built; at round 0 until ``resume``.
        directory: claimed.
        identity: of the run, as the manifest has it.
        records: of all rounds so far, those before a resume included.
        notes: lines for the user about what was found.
    """

    parts: Parts
    directory: RunDirectory
    identity: Mapping[str, Any]
    records: list[RoundRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _seconds: float = 0.0  # before the last resume
    _began: float = field(default_factory=time.perf_counter)  # never goes backwards

    def __post_init__(self) -> None:
        self.checkpoints = CheckpointFolder(self.directory.path)
        self._ledger = Journal(self.directory.path / LEDGER)  # another object writes it

    @property
    def seconds(self) -> float:
        """Of work so far, of all processes that worked on it."""
        return self._seconds + time.perf_counter() - self._began

    def resume(self) -> None:
        """Go to the newest checkpoint that holds, or to the beginning where none does.

        Raises:
            ConfigError: when the privacy ledger is not what it was: nobody knows what was spent.
        """
        checkpoint = self._usable()
        for name, journal in self.directory.journals.items():
            journal.rewind(checkpoint.marks[name] if checkpoint else Journal(journal.path).mark())
        if checkpoint is None:
            self.notes.append("no checkpoint holds; starting at round 1 again, with the same noise")
            return
        self.take(checkpoint)
        last, rounds = checkpoint.round, self.parts.config.federation.rounds
        self.notes.append(f"continuing after round {last} of {rounds}")

    def take(self, checkpoint: Checkpoint) -> None:
        """Put lines and state of a checkpoint in place."""
        from ffalora_cli.federation.snapshot import restore

        self.directory.append(checkpoint.lines)
        self.records = list(read_run(self.directory.path).rounds)
        rows = read_communication(self.directory.path)
        try:
            restore(self.parts.simulation, checkpoint.tensors, checkpoint.facts, rows)
            self._seconds = float(checkpoint.facts.get("seconds", 0.0))
        except (LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
            raise ConfigError(
                f"checkpoint of round {checkpoint.round} does not fit this run's method or model "
                f"({type(error).__name__}); delete "
                f"{self.directory.path}/ckpt/round-{checkpoint.round:06d} to resume from the one "
                "before, or start over with --again"
            ) from error

    def commit(self, record: RoundRecord) -> None:
        """Write a finished round: checkpoint first, then its lines.

        Raises:
            OSError: when it cannot be written; the round before it is intact.
        """
        from ffalora_cli.federation.snapshot import snapshot

        simulation, judged = self.parts.simulation, headline(self.parts.config)
        value = record.metrics.get(judged)
        tensors, facts = snapshot(simulation)
        lines = round_lines(record, simulation.communication.rows(record.round))
        self._ledger.catch_up()
        journals = {**self.directory.journals, LEDGER: self._ledger}
        self.checkpoints.write(
            Checkpoint(
                round=record.round,
                tensors=tensors,
                facts={**facts, "seconds": self.seconds},
                identity=self.stamp,
                marks={name: journal.mark() for name, journal in journals.items()},
                lines=lines,
                score=None if value is None else value if higher_is_better(judged) else -value,
            )
        )
        self.directory.append(lines)
        self.records.append(record)

    @property
    def stamp(self) -> dict[str, Any]:
        """What a checkpoint says about the run it belongs to."""
        versions = {**self.identity["versions"], "ffalora": self.identity["ffalora"]}
        return {"config": digest(self.identity), "versions": versions}

    def _usable(self) -> Checkpoint | None:
        """The newest checkpoint of this run whose lines are still there."""
        while (checkpoint := self.checkpoints.newest()) is not None:
            journals = self.directory.journals
            if {*checkpoint.marks} != {*journals, LEDGER} or {*checkpoint.lines} != {*journals}:
                self.checkpoints.discard(checkpoint.round, "it names other files")
                continue
            changed = [n for n, j in journals.items() if not j.holds(checkpoint.marks[n])]
            if checkpoint.identity != self.stamp:
                self.checkpoints.discard(checkpoint.round, "it belongs to another run")
            elif changed:
                self.checkpoints.discard(checkpoint.round, f"{changed[0]} is not what it was")
            elif not self._ledger.holds(checkpoint.marks[LEDGER]):
                raise ConfigError(
                    f"{self._ledger.path}: not what it was after round {checkpoint.round}, so what "
                    "was spent is unknown; restore the file, or run with --again"
                )
            else:
                break
        self.notes += self.checkpoints.notes
        return checkpoint
