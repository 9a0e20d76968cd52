"""Which privacy plans are refused, and what a valid one is warned about."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import FederationConfig, PrivacyConfig
from ffalora_cli.privacy.accountants import check_accountant

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LEAST_NOISE = 0.1  # below, the grid of privacy losses takes minutes and gigabytes


def check_privacy(privacy: PrivacyConfig) -> tuple[float, float]:
    """(delta, max_grad_norm) of a complete configuration; ConfigError for one that is not."""
    check_accountant(privacy.accountant)
    target, noise = privacy.epsilon_target, privacy.noise_multiplier
    if (target is None) == (noise is None):
        have = "neither is" if target is None else "both are"
        raise ConfigError(
            f"privacy.epsilon_target and privacy.noise_multiplier: {have} set; "
            "set exactly one, e.g. privacy.epsilon_target=6 privacy.noise_multiplier=null"
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
    return privacy.delta, clip or 0.0


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


def warnings_of(
    privacy: PrivacyConfig, delta: float, units: Ints, batch: int, planned: Floats
) -> tuple[str, ...]:
    """One line for each weakness of a valid plan.

    Raises:
        ConfigError: when delta alone would let whole units be published (delta * n > 10).
    """
    worst, name = int(units.max()), "rows" if privacy.unit == "example" else "clients"
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
    small = int((units < batch).sum()) if privacy.unit == "example" else 0
    if small:
        found.append(
            f"{small} of {len(units)} clients have fewer rows than local_batch_size={batch} and "
            "use all of them at every step (sample rate 1, no amplification)"
        )
    if not np.isfinite(planned).all():
        found.append("the planned epsilon is not finite: this much noise proves nothing")
    return tuple(found)
