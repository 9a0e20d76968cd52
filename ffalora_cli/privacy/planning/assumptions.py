"""Computes what the same noise means under other assumptions: the numbers beside the claim."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ffalora_cli.privacy.accounting.accountants import FINE
from ffalora_cli.privacy.accounting.disk_cache import Question, answered
from ffalora_cli.privacy.accounting.groups import epsilon_of_group
from ffalora_cli.privacy.accounting.sampling import replace_one_poisson
from ffalora_cli.privacy.accounting.tuning import epsilon_of_search
from ffalora_cli.privacy.planning.plan import PrivacyPlan
from ffalora_cli.types import Ints


def other_assumptions(plan: PrivacyPlan, client: int, steps: int) -> dict[str, Any]:
    """Epsilon of one client's steps by other accountants, for replacing, and without amplification.

    Args:
        plan: of the run.
        client: its id.
        steps: that it took or is planned to take.

    Returns:
        ``accountants`` (name to epsilon, the plan's sampler and relation), ``replace_one`` (one
        unit exchanged for another) and ``no_amplification`` (every row used once an epoch, zero
        out one), all at the plan's delta.
    """
    noise, rate = float(plan.noise_multiplier[client]), float(plan.accounted_rate[client])
    fine = replace(plan.accountant, interval=FINE)
    claimed = {one.name: one.stored([(noise, rate, steps)]) for one in fine.beside}
    pld = replace(fine, name="pld")
    if fine.sampling == "fixed":
        replaced = claimed["rdp"]
    elif fine.sampling == "shuffled" or rate == 1.0:  # a Gaussian with twice the sensitivity
        replaced = pld.stored([(noise / 2.0, rate, steps)])
    else:
        replaced = _replaced(noise, rate, steps, fine.delta)
    return {
        "accountants": claimed,
        "replace_one": replaced,
        "no_amplification": replace(pld, sampling="shuffled").stored([(noise, rate, steps)]),
    }


def other_groups(plan: PrivacyPlan, client: int, steps: int) -> dict[str, float | None]:
    """Epsilon of one client's steps for one row of a unit, and for two and three units together.

    Returns:
        ``one_row`` (None where a row is a unit, or nothing bounds it), ``two_units`` and
        ``three_units``, by PLD at the plan's delta; None where no bound is known.
    """
    how = (float(plan.noise_multiplier[client]), float(plan.accounted_rate[client]))
    sampling, delta = plan.accountant.sampling, plan.accountant.delta
    central = plan.client_noise == "central"
    groups = {
        "one_row": (plan.bounds_one_row, None),
        "two_units": (central, 2),
        "three_units": (central, 3),
    }
    return {
        name: epsilon_of_group(sampling, *how, steps, delta, units) if known else None
        for name, (known, units) in groups.items()
    }


def tuning(plan: PrivacyPlan, steps_taken: Ints, claim: float) -> float | None:
    """Epsilon of choosing the best of ``plan.trials`` runs, of the worst unit; None without tuning.

    Args:
        plan: of the run.
        steps_taken: by each client ``[num_clients]``.
        claim: epsilon of the run alone, below which no search of it can be.
    """
    if plan.trials <= 1.0:
        return None
    histories = [[one] for one in plan.steps_of_clients(steps_taken)]
    histories += plan.steps_of_shared(steps_taken)
    found = epsilon_of_search(plan.accountant, histories, plan.trials, plan.trial_distribution)
    return max(claim, found)


def with_trials(plan: PrivacyPlan, steps_taken: Ints) -> tuple[float, str] | None:
    """Epsilon of a run together with the runs that chose its settings, from their ledgers.

    Args:
        plan: with ``trial_splits``; a unit that several clients hold counts as on all of them.
        steps_taken: by each client in this run ``[num_clients]``.

    Returns:
        (epsilon of a unit that all of them trained on, accountant's name); None where no bound is
        known: clients that are the units had other rows in other runs.
    """
    if plan.unit == "client":
        return None
    own = plan.steps_of_clients(steps_taken)
    histories = [own] if plan.shared else [[one] for one in own]
    return plan.accountant.across([*plan.trial_splits, histories])


def _replaced(noise: float, rate: float, steps: int, delta: float) -> float:
    """Poisson sampling, replace one; half a second, so kept on disk."""
    if steps == 0:
        return 0.0
    question: Question = {
        "replace one": 1,
        "noise_multiplier": noise,
        "sample_rate": rate,
        "steps": steps,
        "delta": delta,
        "interval": FINE,
    }
    return answered(question, lambda: replace_one_poisson(noise, rate, steps, delta, FINE))
