"""Composes what private runs spend together: ten seeds on the same rows, a run and its forks.

Made from the ledgers that the runs keep. Where clients have the same rows in all runs, each
client's steps are composed over the runs; else a row may have been on any client, and at every
Renyi order the client that loses most stands for its run (not where clients are the units: other
splits have other clients, and no number is stated). Where units lie on several clients (which
ones is not recorded), a unit on all of them bounds every other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import TEXT_CLASSIFICATION
from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.privacy.accounting.sampling import WORDS
from ffalora_cli.privacy.claim.statement import subject
from ffalora_cli.privacy.ledger import charged
from ffalora_cli.privacy.rounding import delta_text, epsilon_text
from ffalora_cli.records.files import read_json_lines
from ffalora_cli.records.reading import RunRecords, read_run
from ffalora_cli.records.run_directory import FORKS, LEDGER
from ffalora_cli.report.runs.settings import client_rows, grouped, train_rows
from ffalora_cli.tasks import registry

Steps = list[tuple[float, float, int]]


@dataclass(frozen=True)
class Together:
    """The sum over some runs; ``epsilon`` is None where no bound is known."""

    runs: int
    epsilon: float | None
    how: str  # unit, relation, delta, sampling, accountant; or why there is no number


def sentences(runs: Sequence[RunRecords]) -> list[str]:
    """A line for every group of ``together``."""
    found = []
    for group in together(runs):
        who = f"{group.runs} private runs on the same rows together"
        said = "cost more than any of them; how much is not stated"
        if group.epsilon is not None:
            said = f"epsilon {epsilon_text(group.epsilon)}"
        found.append(f"{who}: {said} ({group.how})")
    return found


def together(runs: Sequence[RunRecords]) -> list[Together]:
    """One entry for every group of two or more runs on the same rows under the same promise.

    Args:
        runs: finished or not; those without privacy are left aside.
    """
    groups = grouped(
        [run for run in runs if run.privacy is not None],
        lambda run: (train_rows(run), promise_of(run)),
    )
    return [composed(members) for members in groups.values() if len(members) > 1]


def promise_of(run: RunRecords) -> tuple[str, object, object]:
    """Unit, relation and sampling: only runs that agree in them have a sum."""
    said = run.privacy or {}
    return unit_of(run), said.get("relation"), said.get("sampling")


def unit_of(run: RunRecords) -> str:
    """The unit a run promises; ``example`` was the name of ``row``."""
    unit = str((run.privacy or {}).get("unit"))
    return "row" if unit == "example" else unit


def composed(runs: Sequence[RunRecords]) -> Together:
    """Runs under one promise, each with its own noise, rates and steps."""
    if train_rows(runs[0]) is None:
        return Together(len(runs), None, "no fingerprint of their training rows was recorded")
    try:
        steps = [steps_of(run, runs) for run in runs]
    except ConfigError:
        return Together(len(runs), None, "not all of their privacy ledgers are here")
    statements = [run.privacy or {} for run in runs]
    delta = max(float(said["delta"]) for said in statements)
    relation, sampling = str(statements[0]["relation"]), str(statements[0]["sampling"])
    names = {str(said["accountant"]) for said in statements}
    name = names.pop() if len(names) == 1 else "rdp" if sampling == "fixed" else "pld"
    accountant = Accountant(name, delta, sampling)
    splits = by_split(runs, steps)
    if any(shares_units(run) for run in runs):
        worst = "; as if a unit were on every client"
        splits = [[list(chain.from_iterable(steps))]]
    else:
        worst = "; clients differ: the worst of each run" if len(splits) > 1 else ""
    # At unit client one run's client is a few rows of many in another with other splits.
    known = unit_of(runs[0]) != "client" or len(splits) == 1
    found = accountant.across(splits) if known else None
    if found is None:
        return Together(len(runs), None, "no bound is known for clients with different rows")
    content = registry.get(str(runs[0].config["task"].get("kind", TEXT_CLASSIFICATION))).modality
    whose = subject(unit_of(runs[0]), content)
    how = (
        f"{whose}, {relation}, delta {delta_text(delta)}, {WORDS[sampling]}, "
        f"{found[1].upper()} accountant"
    )
    return Together(len(runs), found[0], how + worst)


def by_split(runs: Sequence[RunRecords], steps: Sequence[Steps]) -> list[list[Steps]]:
    """What each client was charged in all runs that dealt it the same rows, one list a split.

    Args:
        runs: those whose dealing was not recorded are splits of their own.
        steps: of every client, one list a run.
    """
    names = [
        (client_rows(run) or str(run.path), len(own)) for run, own in zip(runs, steps, strict=True)
    ]
    groups = grouped(zip(names, steps, strict=True), lambda pair: pair[0]).values()
    return [[list(own) for own in zip(*(one for _, one in same), strict=True)] for same in groups]


def steps_of(run: RunRecords, others: Sequence[RunRecords] = ()) -> Steps:
    """Steps of every client; a fork's without those of its original where that is in ``others``.

    Raises:
        ConfigError: the run has no ledger that can be read.
    """
    found, origin = _charges(run), run.manifest.get("forked_from")
    if origin and any(is_original(other, origin) for other in others):
        pairs = zip(found, _charges(run, until=int(origin["round"])), strict=True)
        found = [(noise, rate, n - before) for (noise, rate, n), (_, _, before) in pairs]
    return found


def _charges(run: RunRecords, until: int | None = None) -> Steps:
    """Steps of every client by the run's own ledger, up to a round."""
    try:
        rows = read_json_lines(run.path / LEDGER)[0]
        return charged(rows, int((run.privacy or {})["num_clients"]), until=until)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{run.path.name}: no readable privacy ledger ({error})") from error


def is_original(run: RunRecords, origin: object) -> bool:
    """Whether a run is the one that ``forked_from`` of another's manifest names."""
    named = origin if isinstance(origin, dict) else {}
    return run.manifest.get("signature") == named.get("signature")


def shares_units(run: RunRecords) -> bool:
    """Whether some units are on several clients: recorded, else told by a claim above theirs.

    The claim alone does not tell where another client's own epsilon is larger.
    """
    statement = run.privacy or {}
    if "several_clients" in statement:
        return bool(statement["several_clients"])
    clients = statement.get("clients") or []
    if isinstance(clients, dict):
        shown = list((clients.get("epsilon_planned") or {}).values())
    else:
        shown = [row.get("epsilon_planned") for row in clients]
    largest = max(map(_number, shown), default=math.inf)
    return _number((statement.get("epsilon_max") or {}).get("planned")) > largest


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.inf


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
        words = (str(said["accountant"]), float(said["delta"]), str(said["sampling"]))
        return Accountant(*words).worst([one] for one in _charges(run, until=round))
    except (ConfigError, OSError, KeyError, ValueError):
        return None
