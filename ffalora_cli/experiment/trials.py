"""Reads what the runs charged that chose a run's settings: their price is in its statement."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import Config
from ffalora_cli.privacy.accounting.accountant import merged
from ffalora_cli.privacy.planning.plan import PrivacyPlan
from ffalora_cli.records.reading import find_run, read_run
from ffalora_cli.report.runs.spent_together import by_split, promise_of, shares_units, steps_of


def after_trials(plan: PrivacyPlan, config: Config) -> PrivacyPlan:
    """The plan with the ledgers of ``privacy.trial_runs``, as ``Accountant.across`` reads them.

    Raises:
        ConfigError: a run that is not there, or one under another promise.
    """
    names = config.privacy.trial_runs
    if not names:
        return plan
    try:
        runs = [read_run(find_run(Path(config.paths.runs), name)) for name in names]
        steps = [steps_of(run) for run in runs]
    except ConfigError as error:
        raise ConfigError(f"privacy.trial_runs: {error}") from None
    wanted = (plan.unit, plan.relation, plan.accountant.sampling)
    for run in runs:
        if promise_of(run) != wanted:
            raise ConfigError(
                f"privacy.trial_runs: {run.path.name} promises something else than "
                f"{', '.join(wanted)}; name runs of the same unit, relation and sampling"
            )
    splits = by_split(runs, steps)
    if any(shares_units(run) for run in runs):  # as if a unit were on every client
        splits = [[list(chain.from_iterable(steps))]]
    known = tuple(tuple(map(merged, clients)) for clients in splits)
    return replace(plan, trial_runs=len(runs), trial_splits=known)
