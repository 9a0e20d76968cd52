"""Composes what several private runs on the same rows spend: ten seeds are ten releases.

Made from the ledgers that the runs keep. Where clients have the same rows in all runs, each
client's steps are composed over the runs; else a row may have been on any client, and at every
Renyi order the client that loses most stands for its run (not where clients are the units: other
splits have other clients, and no number is stated). Where units lie on several clients (which
ones is not recorded), a unit on all of them bounds every other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.privacy.accountant import Accountant
from ffalora_cli.privacy.ledger import charged
from ffalora_cli.privacy.rounding import delta_text, epsilon_text
from ffalora_cli.privacy.sampling import WORDS
from ffalora_cli.privacy.statement import SUBJECT
from ffalora_cli.records.files import read_json_lines
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.records.run_directory import LEDGER
from ffalora_cli.report.settings import client_rows, grouped, train_rows

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
        lambda run: (
            train_rows(run),
            *map((run.privacy or {}).get, ("relation", "sampling")),
            unit_of(run),
        ),
    )
    return [composed(members) for members in groups.values() if len(members) > 1]


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
    rows = {client_rows(run) for run in runs}
    same = len(rows) == 1 and None not in rows and len({len(clients) for clients in steps}) == 1
    found: float | None
    if any(_shares_units(run) for run in runs):
        worst = "; as if a unit were on every client"
        found = accountant.worst([list(chain.from_iterable(steps))])
    elif same:
        worst, found = "", accountant.worst(zip(*steps, strict=True))
    elif unit_of(runs[0]) == "client":  # one run's client is a few rows of many in another
        worst, found = "", None
    else:
        worst, found = "; clients differ: the worst of each run", accountant.unmatched(steps)
        accountant = replace(accountant, name="rdp")
    if found is None:
        return Together(len(runs), None, "no bound is known for clients with different rows")
    how = (
        f"{SUBJECT[unit_of(runs[0])]}, {relation}, delta {delta_text(delta)}, {WORDS[sampling]}, "
        f"{accountant.name.upper()} accountant"
    )
    return Together(len(runs), found, how + worst)


def steps_of(run: RunRecords, others: Sequence[RunRecords] = ()) -> Steps:
    """Steps of every client; a fork's without those of its original where that is in ``others``.

    Raises:
        ConfigError: the run has no ledger that can be read.
    """
    try:
        rows = read_json_lines(run.path / LEDGER)[0]
        clients = int((run.privacy or {})["num_clients"])
        found, origin = charged(rows, clients), run.manifest.get("forked_from")
        if origin and any(is_original(other, origin) for other in others):
            carried = charged(rows, clients, until=int(origin["round"]))
            pairs = zip(found, carried, strict=True)
            found = [(noise, rate, n - before) for (noise, rate, n), (_, _, before) in pairs]
        return found
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{run.path.name}: no readable privacy ledger ({error})") from error


def is_original(run: RunRecords, origin: object) -> bool:
    """Whether a run is the one that ``forked_from`` of another's manifest names."""
    named = origin if isinstance(origin, dict) else {}
    return run.manifest.get("signature") == named.get("signature")


def _shares_units(run: RunRecords) -> bool:
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
