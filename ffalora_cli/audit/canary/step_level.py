"""Bounds epsilon from what was measured of one step, composed by the accountant."""

from __future__ import annotations

import numpy as np
from scipy.stats import beta, chi2

from ffalora_cli.audit.mechanism.draws import Draws
from ffalora_cli.audit.mechanism.sampler import Inclusions
from ffalora_cli.audit.outcome import Bound
from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.privacy.planning.plan import PrivacyPlan

CONFIDENCE = 0.9999  # of all limits together: 200 clean audits may not exceed a claim


def step_level(
    plan: PrivacyPlan, empty: Draws, drawn: list[Inclusions], contribution: float
) -> Bound:
    """Lower bound on epsilon from limits on noise and sampling rate, by PLD over all steps.

    For the client with the largest claim: the rate is at least its Clopper-Pearson lower limit, and
    the noise of each tensor at most its chi-squared upper limit (an example's gradient may lie in
    the tensor with the least noise); an example moves the sum by ``contribution`` clips, as was
    measured. Half of 1 - CONFIDENCE goes to the rate, half is shared by the tensors. The limits
    hold for Gaussian, independent noise and independent inclusions: what the battery tests.

    Args:
        plan: of the audited clients.
        empty: noise draws.
        drawn: batches of each client.
        contribution: largest found, in units of the clip.
    """
    client = int(plan.epsilon_planned.argmax())
    half = (1.0 - CONFIDENCE) / 2.0
    squares = empty.squares[:, :, client].sum((0, 1))  # [tensors]
    counts = empty.sizes * empty.squares.shape[0] * empty.squares.shape[1]
    limits = np.sqrt(squares / chi2.ppf(half / len(counts), counts))
    claimed = float(plan.noise_multiplier[client])
    # Never below half the claim: still a lower bound on epsilon, and PLD stays quick.
    noise = claimed * max(float(limits.min()) / max(contribution, 1e-9), 0.5)
    found, trials = len(drawn[client].row), drawn[client].trials
    rate = float(beta.ppf(half, found, trials - found + 1)) if found else 0.0
    rate = 1.0 if found == trials else rate
    steps = int(plan.planned_steps[client])
    value = Accountant("pld", plan.accountant.delta).epsilon([(noise, rate, steps)])
    text = f"noise multiplier at most {noise:.4f}, rate at least {rate:.6f}, {steps:,} steps"
    return Bound("step-level", value, CONFIDENCE, True, "every step", f"{text}, composed by PLD")
