"""Adds up what forks and their original spent, before and after one began."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.privacy.ledger import charged
from ffalora_cli.records.files import read_json_lines
from ffalora_cli.records.reading import RunRecords, read_run
from ffalora_cli.records.run_directory import FORKS, LEDGER
from ffalora_cli.report.runs.spent_together import Together, composed, is_original


@dataclass(frozen=True)
class Lineage:
    """A run among those that share its first rounds.

    Attributes:
        original: id of the run it was forked from; empty where it was not.
        round: after which.
        before: epsilon the original had spent by then, of the worst client; None where unknown.
        forks: ids of runs forked from it.
        missing: ids of relatives whose folders are not there (or cannot be read).
        together: this run with its original and its forks; None where there is nobody else.
    """

    original: str
    round: int
    before: float | None
    forks: tuple[str, ...]
    missing: tuple[str, ...]
    together: Together | None


def lineage(run: RunRecords) -> Lineage | None:
    """Runs that a private run shares rounds with; None for one that was never forked.

    A fork's own claim holds the original's charges up to the fork: they stand in its ledger.
    """
    origin, forks = run.manifest.get("forked_from"), _forks(run)
    if run.privacy is None or not (origin or forks):
        return None
    relatives: dict[str, RunRecords | None] = {}
    if origin:
        found = _read(run.path.resolve().parent / str(origin["id"]))
        known = found is not None and is_original(found, origin)
        relatives[str(origin["id"])] = found if known else None
    for name, folder in forks.items():
        relatives[name] = _read(folder)
    there = [found for found in relatives.values() if found is not None and found.privacy]
    return Lineage(
        original=str(origin["id"]) if origin else "",
        round=int(origin["round"]) if origin else 0,
        before=_before(run, int(origin["round"])) if origin else None,
        forks=tuple(forks),
        missing=tuple(name for name, found in relatives.items() if found is None),
        together=composed([run, *there]) if there else None,
    )


def _forks(run: RunRecords) -> dict[str, Path]:
    """Folders of the runs forked from this one, by id."""
    if not (run.path / FORKS).is_file():
        return {}
    try:
        return {str(x["id"]): Path(str(x["folder"])) for x in read_json_lines(run.path / FORKS)[0]}
    except (ConfigError, KeyError):
        return {}


def _read(folder: Path) -> RunRecords | None:
    try:
        return read_run(folder)
    except (ConfigError, OSError):
        return None


def _before(run: RunRecords, round: int) -> float | None:
    """What the charges up to a round come to, of the client for which it is most."""
    said = run.privacy or {}
    try:
        rows = read_json_lines(run.path / LEDGER)[0]
        steps = charged(rows, int(said["num_clients"]), until=round)
        words = (str(said["accountant"]), float(said["delta"]), str(said["sampling"]))
        return Accountant(*words).worst([one] for one in steps)
    except (ConfigError, OSError, KeyError, ValueError):
        return None
