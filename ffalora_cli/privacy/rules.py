"""Which privacy plans are refused, and what a valid one is warned about."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import FederationConfig, PrivacyConfig
from ffalora_cli.privacy.accountants import check_accountant, check_fixed
from ffalora_cli.privacy.rounding import epsilon_text

if TYPE_CHECKING:
    from ffalora_cli.privacy.plan import PrivacyPlan

Floats = npt.NDArray[np.float64]

LEAST_NOISE = 0.1  # below, the grid of privacy losses takes minutes and gigabytes


def check_privacy(privacy: PrivacyConfig) -> tuple[float, float]:
    """(delta, max_grad_norm) of a complete configuration; ConfigError for one that is not."""
    check_accountant(privacy.accountant)
    target, noise = privacy.epsilon_target, privacy.noise_multiplier
    if target is None and noise is None:
        raise ConfigError(
            "privacy.epsilon_target and privacy.noise_multiplier: neither is set; "
            "set one or both, e.g. privacy.epsilon_target=6"
        )
    if privacy.delta is None:
        raise ConfigError("privacy.delta is not set: no epsilon without it; set privacy.delta=1e-5")
    if not 0.0 < privacy.delta < 1.0:
        raise ConfigError(f"privacy.delta={privacy.delta!r} is not in (0, 1); e.g. 1e-5")
    clip = privacy.max_grad_norm
    for key, value, remedy in (
        ("epsilon_target", target, "e.g. 6; without privacy: privacy=none"),
        ("noise_multiplier", noise, "e.g. 1.0; without privacy: privacy=none"),
        ("max_grad_norm", 0.0 if clip is None else clip, "e.g. 1.0"),
    ):
        if value is not None and not 0.0 < value < math.inf:
            raise ConfigError(f"privacy.{key}={value!r} is not a positive number; {remedy}")
    if noise is not None and noise < LEAST_NOISE:
        raise ConfigError(
            f"privacy.noise_multiplier={noise:g} is too little noise to account for (epsilon in "
            f"the hundreds); set at least {LEAST_NOISE}, or privacy=none"
        )
    _check_sampling(privacy)
    return privacy.delta, clip or 0.0


def _check_sampling(privacy: PrivacyConfig) -> None:
    if privacy.sampling == "poisson":
        return
    if privacy.unit == "client":
        raise ConfigError(
            f"privacy.sampling={privacy.sampling} is about the rows of a batch and has no meaning "
            "under privacy.unit=client; set privacy.sampling=poisson"
        )
    if privacy.sampling == "fixed":
        check_fixed(privacy.accountant)


def participation(federation: FederationConfig, num_clients: int) -> float:
    """Probability that a client takes part in a round."""
    if federation.cohort_sampling == "full" or federation.cohort_size is None:
        return 1.0
    return min(1.0, federation.cohort_size / num_clients)


def check_client_unit(federation: FederationConfig, share: float, noise: str) -> None:
    """Refuse cohorts and weights for which the client-level epsilon would not hold.

    Local noise claims no amplification, so any cohort will do; weights by size would still tell
    the number of rows, which belongs to what the unit protects.
    """
    if federation.cohort_sampling == "fixed" and share < 1.0 and noise == "central":
        raise ConfigError(
            "federation.cohort_sampling='fixed' is not covered under privacy.unit=client (no "
            "amplified epsilon for fixed-size cohorts); set federation.cohort_sampling=poisson"
        )
    if federation.weights != "uniform":
        raise ConfigError(
            f"federation.weights={federation.weights!r} breaks the sensitivity under "
            "privacy.unit=client; set federation.weights=uniform"
        )


def warnings_of(plan: PrivacyPlan, federation: FederationConfig, rounds: int) -> tuple[str, ...]:
    """One line for each weakness of a valid plan.

    Args:
        plan: complete but for its warnings.
        federation: of the run.
        rounds: that a client may take part in as far as participation goes.

    Raises:
        ConfigError: when delta alone would let whole units be published (delta * n > 10).
    """
    delta, units = plan.accountant.delta, plan.examples
    worst, name = int(units.max()), "units" if plan.inside_clients else "clients"
    if delta * worst > 10:
        raise ConfigError(
            f"privacy.delta={delta:g} allows {delta * worst:.3g} of {worst} {name} to be "
            f"published outright; set privacy.delta={0.1 / worst:.1g}"
        )
    found = []
    many = int((delta * units >= 1.0).sum())
    if many:
        found.append(
            f"delta {delta:g} is not below 1/n for {many} of {len(units)} clients "
            f"(n = {worst} {name}: 1/n = {1 / worst:.2g})"
        )
    batch = federation.local_batch_size
    small = int((units < batch).sum()) if plan.inside_clients else 0
    if small:
        found.append(
            f"{small} of {len(units)} clients have fewer units than local_batch_size={batch} and "
            "use all of them at every step (sample rate 1, no amplification)"
        )
    if not np.isfinite(plan.epsilon_planned).all():
        found.append("the planned epsilon is not finite: this much noise proves nothing")
    return (*found, *_short_of_rounds(plan, rounds), *_shared(plan))


def _short_of_rounds(plan: PrivacyPlan, rounds: int) -> list[str]:
    """What target and noise together leave of the rounds asked for."""
    least, most = int(plan.planned_rounds.min()), int(plan.planned_rounds.max())
    found = []
    if least < rounds:
        some = f"{least}" if least == most else f"{least} to {most}"
        found.append(
            f"the budget affords {some} of {rounds} rounds a client; a client stops there, and the "
            "run ends when nobody is left"
        )
    never = int((plan.planned_rounds == 0).sum())
    if never:
        found.append(f"{never} of {plan.num_clients} clients cannot afford a round: they sit out")
    return found


def _shared(plan: PrivacyPlan) -> list[str]:
    """What units on several clients make of the claim."""
    if not plan.shared.holders:
        return []
    return [
        f"some units ({plan.unit}) are on several clients, which all release them: composed, that "
        f"is epsilon {epsilon_text(plan.epsilon_claimed)}, and that is the claim"
    ]
