"""Says what a private tune costs: a final run alone, with its search, and everything together."""

from __future__ import annotations

from collections.abc import Sequence

from ffalora_cli.cli.tuning.asked import label
from ffalora_cli.cli.tuning.stages import Tune
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.splits import HOLDOUT
from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.privacy.accounting.tuning import SHAPES, epsilon_of_search
from ffalora_cli.privacy.claim.statement import EARLIER
from ffalora_cli.privacy.rounding import epsilon_text
from ffalora_cli.records.reading import RunRecords, read_run
from ffalora_cli.report.runs.settings import grouped
from ffalora_cli.report.runs.spent_together import composed, promise_of, steps_of
from ffalora_cli.sweep.jobs import SweepJob


def price(tune: Tune) -> list[str]:
    """One line a claim; none where nothing is private."""
    trials = {n: _private(tune.of_cell(n)) for n in range(len(tune.asked.cells))}
    finals = {n: _private(jobs) for n, jobs in tune.finals.items()}
    everything = [run for own in (*trials.values(), *finals.values()) for run in own]
    if not everything:
        return []
    found = []
    for n, own in finals.items():
        found += _of_cell(tune, n, own, trials[n])
    for members in grouped(everything, promise_of).values():
        sum_ = composed(members)
        said = (
            "no epsilon is stated"
            if sum_.epsilon is None
            else f"epsilon {epsilon_text(sum_.epsilon)}"
        )
        found.append(
            f"everything that was run, {sum_.runs} private runs together: {said} ({sum_.how})"
        )
    return [*found, _held_out(tune)]


def _of_cell(
    tune: Tune, n: int, finals: Sequence[RunRecords], trials: Sequence[RunRecords]
) -> list[str]:
    """A final run alone and with its search, and what a search of random length would have cost."""
    if not finals:
        return []
    name = label(tune.asked.cells[n]) or "final run"
    alone = max(float(_spent(run)) for run in finals)
    statements = [(run.privacy or {})["tuning"] for run in finals]
    whole = [s for s in statements if s["distribution"] == EARLIER and s["trials"] == len(trials)]
    if len(whole) < len(finals):
        return [
            f"{name}: a final run alone epsilon {epsilon_text(alone)}; "
            f"{len(finals) - len(whole)} of them were done before this search, and their own "
            "statements leave it out: give the tune a name=NEW of its own"
        ]
    costs = [s["epsilon"] for s in whole]
    said = "no epsilon is stated"
    if all(isinstance(cost, float) for cost in costs):
        said = f"epsilon {epsilon_text(max(costs))}"
    found = [
        f"{name}: a final run alone epsilon {epsilon_text(alone)}; with the {len(trials)} trials "
        f"that chose its setting {said} ({whole[0]['method']}); this stands in its statement"
    ]
    if drawn := _drawn(trials):
        found.append(
            f"{name}: had so many trials been drawn at random, settings too, and the best of them "
            f"itself been released: {drawn} (RDP, Papernot and Steinke 2022); a grid is not that"
        )
    return found


def _drawn(trials: Sequence[RunRecords]) -> str:
    """Epsilon of the best of a random number of runs, by distribution, at the dearest trial."""
    said = trials[-1].privacy or {} if trials else {}
    if len(trials) < 2 or said["unit"] == "client" or said["several_clients"]:
        return ""
    accountant = Accountant(str(said["accountant"]), float(said["delta"]), str(said["sampling"]))
    try:
        histories = [[step] for run in trials for step in steps_of(run)]
    except ConfigError:
        return ""
    costs = {
        shape: epsilon_of_search(accountant, histories, len(trials), shape) for shape in SHAPES
    }
    return ", ".join(f"{shape} epsilon {epsilon_text(cost)}" for shape, cost in costs.items())


def _held_out(tune: Tune) -> str:
    """What is promised to the rows that the trials were judged on."""
    task = next(iter(tune.trials.values()))[0].checked.config.task
    text = (
        "rows that the trials were judged on are protected by nothing against the choice: their "
        "scores have no noise"
    )
    if task.tune_split == HOLDOUT:
        text += "; they were cut from the training rows, and the final runs train on them"
    return text


def _private(jobs: Sequence[SweepJob]) -> list[RunRecords]:
    """Those of some jobs' runs that have charged a ledger."""
    found = []
    for job in jobs:
        try:
            run = read_run(job.path)
        except ConfigError:  # one that never began
            continue
        if run.privacy is not None:
            found.append(run)
    return found


def _spent(run: RunRecords) -> float | str:
    claimed = (run.privacy or {})["epsilon_max"]
    return claimed["planned"] if claimed["spent"] is None else claimed["spent"]
