"""What a run may say about its privacy: one sentence, and the whole of it as JSON values.

No epsilon leaves this file without unit, relation, delta, sampling and accountant.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ffalora_cli.privacy.accountants import library
from ffalora_cli.privacy.assumptions import other_assumptions, tuning
from ffalora_cli.privacy.mechanism import mechanism
from ffalora_cli.privacy.plan import Floats, Ints, PrivacyPlan
from ffalora_cli.privacy.rounding import delta_text, epsilon_text
from ffalora_cli.privacy.sampling import NOTES, WORDS
from ffalora_cli.privacy.spent import spent

SCHEMA = 2
LISTED = 20  # up to so many clients are listed, more are summarised
EXACT = 8  # up to so many different clients, spent values are computed at their own step

NOISE_NOTES = {
    "reproducible": (
        "noise and sampling are functions of seed, config, rows, weights and tokenizer; whoever "
        "knows or guesses them all can remove the noise, so the guarantee is nominal: use "
        "privacy.noise=secure for a release"
    ),
    "secure": (
        "noise and sampling are keyed by operating-system entropy, kept only in the run's secret "
        "file readable by its owner; a floating-point Gaussian is not a formally secure sampler"
    ),
}
PROTECTS = {
    "example": (
        "one row of the task on one client, whatever it says; not all rows about one person, nor a "
        "sentence whose phrases are rows of their own"
    ),
    "client": "all rows of one client together: whether the client took part at all",
}
OUTSIDE = (
    "training loss, clip fraction and gradient norms (records of the run, computed without noise)",
    "label histograms and the number of rows of each client",
    "the time a round takes",
    "the choice of hyper-parameters over several runs, beyond the trials stated here",
    "the evaluation data, and any selection of a checkpoint on private rows",
    "texts that resemble or contain one another: only exact copies are counted as one row",
    "the base model's own pre-training data",
)


def sentence(plan: PrivacyPlan, steps_taken: Ints | None = None) -> str:
    """The claim in one line; planned, or spent where ``steps_taken [num_clients]`` is given.

    Epsilon is rounded up to two decimals, so that the text never understates it. Where rows are on
    several clients, the claim is their sum, and delta that of all of them.
    """
    values = plan.epsilon_planned if steps_taken is None else _spent(plan, steps_taken)
    claim, largest = plan.claim(values), float(values.max())
    what = "planned epsilon" if steps_taken is None else "epsilon"
    each = plan.unit == "example" or plan.client_noise == "local"
    over = f"largest of {plan.num_clients} clients; " if each else ""
    delta = plan.delta
    if claim > largest:
        delta *= plan.shared.most_clients
        over = (
            f"a row on up to {plan.shared.most_clients} clients, their epsilons added; "
            f"{epsilon_text(largest)} is the {over}"
        )
    sampling = WORDS[plan.sampling]
    if plan.client_noise == "local":
        sampling = "every upload noised by its client, no amplification"
    elif plan.unit == "client":
        whole = bool((plan.sample_rate == 1.0).all())
        sampling = "every client in every round" if whole else f"{sampling} of the cohort"
    return (
        f"{what} {epsilon_text(claim)} ({over}unit {plan.unit}, {plan.relation}, "
        f"delta {delta_text(delta)}, {sampling}, {plan.accountant.upper()} accountant)"
    )


def statement(plan: PrivacyPlan, steps_taken: Ints | None = None) -> dict[str, Any]:
    """Everything a reader needs to judge the claim.

    Args:
        plan: of the run.
        steps_taken: steps each client was charged for ``[num_clients]``; None before training.

    Returns:
        JSON values under stable keys (``schema`` counts their changes); an epsilon without a finite
        bound is the string ``"inf"``.
    """
    used = None if steps_taken is None else np.asarray(steps_taken, dtype=np.int64)
    values = None if used is None else _spent(plan, used)
    return {
        "schema": SCHEMA,
        "sentence": sentence(plan, used),
        "unit": plan.unit,
        "protects": PROTECTS[plan.unit],
        "relation": plan.relation,
        "sampling": plan.sampling,
        "sampling_note": NOTES[plan.sampling] if plan.unit == "example" else "",
        "accountant": plan.accountant,
        "library": library(plan.accountant, plan.sampling),
        "delta": plan.delta,
        "one_over_n": 1.0 / int(plan.examples.max()),
        "max_grad_norm": plan.max_grad_norm,
        "mechanism": mechanism(plan),
        "calibration": plan.calibration,
        "epsilon_target": plan.epsilon_target,
        "epsilon_max": {
            "planned": _number(plan.claim(plan.epsilon_planned)),
            "spent": None if values is None else _number(plan.claim(values)),
        },
        "num_clients": plan.num_clients,
        "clients": _clients(plan, used, values),
        "largest": _largest(plan, used, values),
        "tuning": _tuning(plan, used, values),
        "shared_rows": _shared(plan, values),
        "covered": list(plan.covered),
        "noise": {"mode": plan.noise, "note": NOISE_NOTES[plan.noise]},
        "warnings": list(plan.warnings),
        "outside": list(OUTSIDE),
    }


def _spent(plan: PrivacyPlan, steps_taken: Ints) -> Floats:
    columns = np.stack([plan.noise_multiplier, plan.accounted_rate, steps_taken], axis=1)
    few = len(np.unique(columns, axis=0)) <= EXACT
    return spent(plan, steps_taken, exact=few)


def _clients(
    plan: PrivacyPlan, used: Ints | None, values: Floats | None
) -> list[dict[str, Any]] | dict[str, Any]:
    columns: dict[str, Any] = {
        "examples": plan.examples,
        "sample_rate": plan.sample_rate,
        "expected_batch": plan.expected_batch,
        "noise_multiplier": plan.noise_multiplier,
        "steps_planned": plan.planned_steps,
        "epsilon_planned": plan.epsilon_planned,
    }
    if used is not None and values is not None:
        columns |= {"steps_taken": used, "epsilon_spent": values}
    if plan.num_clients <= LISTED:
        return [
            {"client": i, **{key: _number(column[i]) for key, column in columns.items()}}
            for i in range(plan.num_clients)
        ]
    names = {"least": 0.0, "quarter": 0.25, "median": 0.5, "three_quarters": 0.75, "most": 1.0}
    return {
        key: {  # a real client's value at each rank, never a mean of two
            name: _number(np.quantile(column, q, method="higher")) for name, q in names.items()
        }
        for key, column in columns.items()
    }


def _worst(plan: PrivacyPlan, used: Ints | None, values: Floats | None) -> tuple[int, int]:
    """(client with the largest epsilon, its steps)."""
    client = int(np.argmax(plan.epsilon_planned if values is None else values))
    return client, int((plan.planned_steps if used is None else used)[client])


def _largest(plan: PrivacyPlan, used: Ints | None, values: Floats | None) -> dict[str, Any]:
    """The client with the largest epsilon, under the claim's assumptions and under others."""
    client, steps = _worst(plan, used, values)
    found = other_assumptions(plan, client, steps)
    return {
        "client": client,
        "steps": steps,
        "noise_multiplier": float(plan.noise_multiplier[client]),
        "sample_rate": float(plan.accounted_rate[client]),
        "epsilon": {name: _number(value) for name, value in found["accountants"].items()},
        "replace_one": _number(found["replace_one"]),
        "no_amplification": _number(found["no_amplification"]),
    }


def _tuning(plan: PrivacyPlan, used: Ints | None, values: Floats | None) -> dict[str, Any]:
    """Trials, and what choosing the best of them costs (of the client with the largest epsilon)."""
    client, steps = _worst(plan, used, values)
    epsilon = tuning(plan, client, steps)
    return {
        "trials": plan.trials,
        "distribution": plan.trial_distribution,
        "epsilon": None if epsilon is None else _number(epsilon),
    }


def _shared(plan: PrivacyPlan, values: Floats | None) -> dict[str, Any]:
    """Texts on several clients, and copies within one."""
    shared = plan.shared
    now = plan.epsilon_planned if values is None else values
    return {
        "texts_on_several_clients": shared.texts,
        "most_clients": shared.most_clients,
        "epsilon": _number(shared.largest_sum(now)),
        "delta": plan.delta * shared.most_clients,
        "rows_repeated_within_a_client": shared.repeated,
        "most_copies": shared.copies,
    }


def _number(value: Any) -> int | float | str:
    plain = value.item() if isinstance(value, np.generic) else value
    return "inf" if plain == math.inf else plain
