"""Refuses privacy settings that no accountant covers; the budget itself is planned later."""

from __future__ import annotations

import math

from ffalora_cli.config.errors import ConfigError, listed, require
from ffalora_cli.config.schema import Config, FederationConfig, PrivacyConfig

_BUDGET = ("epsilon_target", "noise_multiplier")
_ADAPTIVE = ("clip_quantile", "clip_count_noise")
LEAST_NOISE = 0.1  # below, the grid of privacy losses takes minutes and gigabytes


def check_privacy(config: Config) -> None:
    """Refuse a privacy group that no accountant covers."""
    privacy = config.privacy
    if privacy.unit == "none":
        for name in (
            *_BUDGET,
            "delta",
            "max_grad_norm",
            *_ADAPTIVE,
            "rows_per_unit",
            "participation_quantile",
            "trial_runs",
        ):
            value, unset = getattr(privacy, name), "[]" if name == "trial_runs" else "null"
            if value not in (None, ()):
                raise ConfigError(
                    f"privacy.{name}={listed(value) if unset == '[]' else value} has no effect "
                    f"while privacy.unit is none; set privacy.{name}={unset}, or choose "
                    "privacy=text or client"
                )
        return
    if config.federation.clip_gradients is not None:
        raise ConfigError(
            f"federation.clip_gradients={config.federation.clip_gradients:g}: with privacy.unit="
            f"{privacy.unit} privacy.max_grad_norm is the clip; set federation.clip_gradients=null"
        )
    check_mechanism(privacy)
    check_cohort(privacy, config.federation)
    if privacy.unit == "column" and config.task.unit_column is None:
        raise ConfigError(
            "privacy.unit=column: task.unit_column is null; name the column whose rows are "
            "protected together, or use privacy.unit=text"
        )


def check_mechanism(privacy: PrivacyConfig) -> None:
    """Refuse budget, clip, sampler and accountant that do not make a mechanism with an epsilon."""
    if privacy.epsilon_target is None and privacy.noise_multiplier is None:
        raise ConfigError(
            f"privacy.epsilon_target is null with privacy.unit={privacy.unit}; set it, or "
            "privacy.noise_multiplier, or privacy=none"
        )
    for name in (*_BUDGET, "max_grad_norm", "clip_lr", "clip_count_noise"):
        value = getattr(privacy, name)
        if value is not None:
            wanted = "above 0; without privacy: privacy=none" if name in _BUDGET else "above 0"
            require(f"privacy.{name}", value, 0 < value < math.inf, wanted)
    noise = privacy.noise_multiplier
    if noise is not None and noise < LEAST_NOISE:
        raise ConfigError(
            f"privacy.noise_multiplier={noise:g} is too little noise to account for (epsilon in "
            f"the hundreds); set privacy.noise_multiplier={LEAST_NOISE} or more, or privacy=none"
        )
    if privacy.delta is None:
        raise ConfigError("privacy.delta is null; an epsilon needs a delta: privacy.delta=1e-5")
    check_delta("privacy.delta", privacy.delta)
    if privacy.max_grad_norm is None:
        raise ConfigError(
            "privacy.max_grad_norm is null; noise needs a clip: "
            "privacy.max_grad_norm=${model.max_grad_norm.query_value}"
        )
    _clip(privacy)
    quantile = privacy.participation_quantile
    if quantile is not None:
        wanted = "from 0.5 to below 1, as in 0.999, or null for mean + 4 sd"
        require("privacy.participation_quantile", quantile, 0.5 <= quantile < 1, wanted)
    require("privacy.trials", privacy.trials, privacy.trials >= 1, "1 (no tuning) or more")
    if privacy.sampling != "poisson" and privacy.unit == "client":
        raise ConfigError(
            f"privacy.sampling={privacy.sampling} is about the rows of a batch; under "
            "privacy.unit=client use privacy.sampling=poisson"
        )
    if privacy.sampling == "fixed":
        check_fixed(privacy.accountant)
    most = privacy.rows_per_unit
    if most is not None:
        require("privacy.rows_per_unit", most, most >= 1, "1 or more, or null for all")
        if privacy.unit not in ("text", "column"):
            raise ConfigError(
                f"privacy.rows_per_unit={most} has no effect under privacy.unit={privacy.unit}; "
                "set privacy.rows_per_unit=null, or privacy.unit=text or column"
            )


def check_delta(key: str, delta: float) -> None:
    """Refuse a delta that promises nothing, whatever the number of units.

    With probability delta the guarantee may fail altogether. What delta means for n units is judged
    where n is known; with a handful of units even 0.2 is below 1/n.
    """
    require(key, delta, 0 < delta < 0.1, "above 0 and well below 1/n, as in 1e-5")


def check_fixed(accountant: str) -> None:
    """Refuse an accountant that has no bound for batches of a fixed size."""
    if accountant != "rdp":
        raise ConfigError(
            f"privacy.sampling=fixed has no bound by privacy.accountant={accountant}; "
            "set privacy.accountant=rdp, or privacy.sampling=poisson"
        )


def check_cohort(privacy: PrivacyConfig, federation: FederationConfig) -> None:
    """Refuse cohorts and weights for which a client-level epsilon would not hold.

    Local noise claims no amplification, so any cohort will do; weights by size would still tell
    the number of rows, which belongs to what the unit protects.
    """
    if privacy.unit != "client":
        return
    if federation.cohort_sampling == "fixed" and privacy.client_noise == "central":
        raise ConfigError(
            "federation.cohort_sampling=fixed is not covered by the accountant under "
            "privacy.unit=client; use federation.cohort_sampling=poisson, or full"
        )
    if federation.weights != "uniform":
        raise ConfigError(
            f"federation.weights={federation.weights} breaks the bound on one client's share under "
            "privacy.unit=client; use federation.weights=uniform"
        )


def _clip(privacy: PrivacyConfig) -> None:
    """Clip rules and the adaptive clip are for gradients; a client's upload has one norm."""
    key = f"privacy.clip={privacy.clip}"
    quantile = privacy.clip_quantile
    if privacy.unit == "client" and (privacy.clip != "flat" or quantile is not None):
        key = key if privacy.clip != "flat" else f"privacy.clip_quantile={quantile}"
        raise ConfigError(
            f"{key} is for units inside a client (a client's upload has one fixed clip); "
            "use privacy.clip=flat and privacy.clip_quantile=null"
        )
    if privacy.inside_clients and privacy.client_noise == "local":
        raise ConfigError(
            f"privacy.client_noise=local has no effect under privacy.unit={privacy.unit} (clients "
            "noise their gradients anyway); use privacy.client_noise=central, or privacy=client"
        )
    if quantile is None:
        return
    require("privacy.clip_quantile", quantile, 0 < quantile < 1, "between 0 and 1, as in 0.5")
    if privacy.sampling != "poisson":
        raise ConfigError(
            f"privacy.sampling={privacy.sampling} is not covered with privacy.clip_quantile (the "
            "count's sensitivity is that of one row more or less); use privacy.sampling=poisson"
        )
    if privacy.clip != "flat":
        raise ConfigError(
            f"{key} has no single norm whose quantile could be followed; use privacy.clip=flat, "
            "or privacy.clip_quantile=null"
        )
