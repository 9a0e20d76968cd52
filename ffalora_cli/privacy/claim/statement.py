"""Writes what a run may say about its privacy: one sentence, and the whole as JSON values.

No epsilon leaves this file without unit, relation, delta, sampling and accountant.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from ffalora_cli.privacy.accounting.sampling import NOTES, WORDS
from ffalora_cli.privacy.claim.spent import claimed, spent
from ffalora_cli.privacy.planning.assumptions import (
    other_assumptions,
    other_groups,
    tuning,
    with_trials,
)
from ffalora_cli.privacy.planning.plan import PrivacyPlan
from ffalora_cli.privacy.rounding import delta_text, epsilon_text
from ffalora_cli.types import Floats, Ints

SCHEMA = 3
LISTED = 20  # up to so many clients are listed, more are summarised
EXACT = 8  # up to so many different clients, spent values are computed at their own step

NOISE_NOTES = {
    "reproducible": (
        "noise and sampling are functions of seed, config, rows, weights and tokenizer; whoever "
        "knows or guesses them all can remove the noise, and who knows all other rows can read off "
        "its rounding which row was in a step (floating-point attack), so the guarantee is "
        "nominal: use privacy.noise=secure for a release"
    ),
    "secure": (
        "noise and sampling are keyed by operating-system entropy, kept only in the run's secret "
        "file readable by its owner; noise is a sum of four normal values in 64 bits, added before "
        "anything is rounded to 32 (Holohan and Braghin 2021), which the known floating-point "
        "attacks do not undo; it is not a formally secure sampler"
    ),
}
PROTECTS = {
    "row": (
        "one row of the task on one client, whatever it says; not all rows about one person, nor "
        "copies of the row: the same text elsewhere is another row"
    ),
    "text": (
        "all rows of one client that are one text to the model, together with equal texts (case "
        "and blanks aside) on other clients; not texts on other clients that are alike only once "
        "they are truncated, not all rows about one person, nor a sentence whose phrases are rows "
        "of their own"
    ),
    "column": "all rows with one value of task.unit_column, together, on whatever clients",
    "client": "all rows of one client together: whether the client took part at all",
}
PROTECTS_IMAGES = PROTECTS | {
    "row": (
        "one row of the task on one client, whatever it shows; not all rows about one person, nor "
        "copies of the row: the same image elsewhere is another row"
    ),
    "text": (
        "all rows of one client that are one image to the model, together with images of the same "
        "pixels on other clients; not images on other clients that are alike only once they are "
        "resized, nor all images of one person or thing"
    ),
}
SELECTED = "RDP, Papernot and Steinke 2022"
COMPOSED = (
    "the ledgers of those runs and this one composed, for a unit that all of them trained on; one "
    "that was held out to judge them is protected in this run, not against the choice"
)
NO_BOUND = "no bound is known where clients had other rows in those runs"
_SUBJECT = {"row": "any row", "text": "any text", "column": "any unit", "client": "any client"}
OUTSIDE = (
    "what stays in the run folder: training loss, clip fraction, gradient norms, label histograms, "
    "rows and times of single clients and rounds (all computed without noise)",
    "the number of units of each client: taken as public, since noise multipliers and sampling "
    "rates follow from it",
    "what the partition tells: that a client exists, how much it holds, and where units lie on "
    "several clients that they do (the claim is larger then)",
    "the run's time in all, to the minute, and the moment at which it ended",
    "the choice of hyper-parameters over several runs, beyond the trials stated here",
    "rows held out for evaluation or for choosing, also where they were cut from private rows: a "
    "score on them, and a checkpoint or setting chosen by it, is computed without noise",
    "the base model's own pre-training data",
)
ALIKE = {  # what the unit leaves out of the guarantee
    "row": "copies of a row, and rows that resemble or contain it: each row is a unit of its own",
    "text": "texts that resemble or contain one another: only equal ones are one unit",
    "column": "what rows with another value of task.unit_column say about it",
    "client": "what the rows of other clients say about one client's",
}
ALIKE_IMAGES = ALIKE | {
    "text": "images that resemble one another, as crops and copies do: only equal ones are one unit"
}
CLIPS = {
    "flat": "one norm over all covered tensors, cut to max_grad_norm",
    "per_layer": "each layer cut to max_grad_norm / sqrt(layers); together max_grad_norm",
    "automatic": "every gradient scaled by max_grad_norm / (norm + 0.01), below max_grad_norm",
}
GROUPS = "; a row's gradient first, then the sum over a unit's rows"
LOCAL = (
    "every client clips its whole upload and adds the noise itself, so the server need not be "
    "trusted; sensitivity 2 max_grad_norm (its rows replaced by any others), and what stays with "
    "the client (personal tensors) is not released"
)
CENTRAL = "the server clips every upload and adds noise once to their sum; it is trusted with them"
EXAMPLE = "every client adds noise to the sum of clipped gradients of each local step"
ADAPTIVE = (
    "max_grad_norm is where the clip starts; it follows a quantile of the gradient norms, and the "
    "noised count of unclipped units behind it is paid out of the same noise multiplier"
)


def subject(unit: str, content: str) -> str:
    """Whom a claim is about; equal images are the units that equal texts are otherwise."""
    return "any image" if (unit, content) == ("text", "image") else _SUBJECT[unit]


def sentence(plan: PrivacyPlan, steps_taken: Ints | None = None) -> str:
    """The claim in one line; planned, or spent where ``steps_taken [num_clients]`` is given.

    Epsilon is rounded up to two decimals, so that the text never understates it. Where a unit is on
    several clients, the claim is of all of them composed, at the same delta.
    """
    values = plan.epsilon_planned if steps_taken is None else _spent(plan, steps_taken)
    claim = _claim(plan, steps_taken, values)
    what = "planned epsilon" if steps_taken is None else "epsilon"
    who = subject(plan.unit, plan.content)
    if plan.inside_clients:
        where = "on several clients, composed" if claim > values.max() else "of one client"
        who = f"{who} {where}"
    by = plan.accountant
    sampling = WORDS[by.sampling]
    if plan.client_noise == "local":
        sampling = "every upload noised by its client, no amplification"
    elif plan.unit == "client":
        whole = bool((plan.sample_rate == 1.0).all())
        sampling = "every client in every round" if whole else f"{sampling} of the cohort"
    return (
        f"{what} {epsilon_text(claim)} ({who}; unit {plan.unit}, {plan.relation}, "
        f"delta {delta_text(by.delta)}, {sampling}, {by.name.upper()} accountant)"
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
    planned, spent_now, by = plan.epsilon_claimed, None, plan.accountant
    images = plan.content == "image"
    if used is not None and values is not None:
        spent_now = _claim(plan, used, values)
    return {
        "schema": SCHEMA,
        "sentence": sentence(plan, used),
        "unit": plan.unit,
        "protects": (PROTECTS_IMAGES if images else PROTECTS)[plan.unit],
        "relation": plan.relation,
        "sampling": by.sampling,
        "sampling_note": NOTES[by.sampling] if plan.inside_clients else "",
        "accountant": by.name,
        "library": by.library,
        "delta": by.delta,
        "one_over_n": 1.0 / int(plan.examples.max()),
        "delta_below_one_over_n": by.delta * int(plan.examples.max()) < 1.0,
        "max_grad_norm": plan.max_grad_norm,
        "mechanism": _mechanism(plan),
        "calibration": plan.calibration,
        "epsilon_target": plan.epsilon_target,
        "participation": _participation(plan),
        "epsilon_max": {
            "planned": _number(planned),
            "spent": None if spent_now is None else _number(spent_now),
        },
        "num_clients": plan.num_clients,
        "several_clients": bool(plan.shared),  # hold one unit; a function of private rows
        "clients": _clients(plan, used, values),
        "largest": _largest(plan, used, values),
        "tuning": _tuning(plan, used, planned if spent_now is None else spent_now),
        "covered": list(plan.covered),
        "noise": {"mode": plan.noise, "note": NOISE_NOTES[plan.noise]},
        "warnings": list(plan.warnings),
        "outside": [*OUTSIDE, (ALIKE_IMAGES if images else ALIKE)[plan.unit]],
    }


def _participation(plan: PrivacyPlan) -> dict[str, Any] | None:
    """How often a client may take part; None where each does in every round, or pays for it."""
    often = plan.participation
    if often is None or often.share == 1.0:
        return None
    rule = "mean + 4 sd" if often.quantile is None else f"quantile {often.quantile:g}"
    note = (
        f"a client is drawn with probability {often.share:.4g} in each of {often.rounds} rounds "
        f"and planned for {often.planned} ({rule} of the binomial); with probability "
        f"{often.beyond:.1e} it is drawn more often, and then sits out: its epsilon never passes "
        "the plan"
    )
    return {**asdict(often), "rule": rule, "note": note}


def _mechanism(plan: PrivacyPlan) -> dict[str, Any]:
    """Clip rule, sensitivity, who adds how much noise, as JSON values under stable keys.

    ``noise_on_release`` is the noise sd on a step's sum (unit ``client``: on the sum of uploads, or
    with local noise on each), in units of ``max_grad_norm``; smallest and largest client.
    """
    local = plan.client_noise == "local"
    where = EXAMPLE if plan.inside_clients else LOCAL if local else CENTRAL
    adaptive = None
    if plan.clip_quantile is not None and plan.count_noise is not None:
        adaptive = {
            "quantile": plan.clip_quantile,
            "lr": plan.clip_lr,
            "count_noise": _range(plan.count_noise),
            "note": ADAPTIVE,
        }
    return {
        "clip": plan.clip,
        "clip_note": CLIPS[plan.clip] + (GROUPS if plan.unit in ("text", "column") else ""),
        "sensitivity": (2.0 if local else 1.0) * plan.max_grad_norm,
        "noise_by": where,
        "noise_on_release": _range(plan.added_noise),
        "adaptive_clip": adaptive,
    }


def _range(values: Floats) -> list[float]:
    return [float(values.min()), float(values.max())]


def _spent(plan: PrivacyPlan, steps_taken: Ints) -> Floats:
    columns = np.stack([plan.noise_multiplier, plan.accounted_rate, steps_taken], axis=1)
    few = len(np.unique(columns, axis=0)) <= EXACT
    return spent(plan, steps_taken, exact=few)


def _claim(plan: PrivacyPlan, steps_taken: Ints | None, values: Floats) -> float:
    """Of the worst unit, at these very steps."""
    if steps_taken is None:
        return plan.epsilon_claimed
    return claimed(plan, steps_taken, values, exact=True)


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
    groups = other_groups(plan, client, steps)
    return {
        "client": client,
        "steps": steps,
        "noise_multiplier": float(plan.noise_multiplier[client]),
        "sample_rate": float(plan.accounted_rate[client]),
        "epsilon": {name: _number(value) for name, value in found["accountants"].items()},
        "replace_one": _number(found["replace_one"]),
        "no_amplification": _number(found["no_amplification"]),
        **{name: None if value is None else _number(value) for name, value in groups.items()},
    }


def _tuning(plan: PrivacyPlan, used: Ints | None, claim: float) -> dict[str, Any]:
    """Trials, and what choosing the best of them, or by them, costs the worst unit."""
    steps = plan.planned_steps if used is None else used
    facts: dict[str, Any] = {"delta": plan.accountant.delta, "unit": plan.unit}
    if plan.trial_runs:
        bound = with_trials(plan, steps)
        by, how = ("", NO_BOUND) if bound is None else (f"{bound[1].upper()}, ", COMPOSED)
        return facts | {
            "trials": plan.trial_runs,
            "distribution": "earlier runs",
            "epsilon": None if bound is None else _number(bound[0]),
            "method": by + how,
        }
    epsilon = tuning(plan, steps, claim)
    fixed = plan.trial_distribution == "fixed"
    return facts | {
        "trials": plan.trials,
        "distribution": plan.trial_distribution,
        "epsilon": None if epsilon is None else _number(epsilon),
        "method": f"{plan.accountant.name.upper()}, trial by trial" if fixed else SELECTED,
    }


def _number(value: Any) -> int | float | str:
    plain = value.item() if isinstance(value, np.generic) else value
    return "inf" if plain == math.inf else plain
