"""What values of the privacy group may go together; the budget itself is planned later."""

from __future__ import annotations

from ffalora_cli.config.errors import ConfigError, require
from ffalora_cli.config.schema import Config

_BUDGET = ("epsilon_target", "noise_multiplier")
_ADAPTIVE = ("clip_quantile", "clip_count_noise")


def check_privacy(config: Config) -> None:
    """Refuse a privacy group that no accountant covers."""
    privacy = config.privacy
    if privacy.unit == "none":
        for name in (*_BUDGET, "delta", "max_grad_norm", *_ADAPTIVE, "rows_per_unit"):
            value = getattr(privacy, name)
            if value is not None:
                raise ConfigError(
                    f"privacy.{name}={value} has no effect while privacy.unit is none; choose "
                    "privacy=text or client, or set it to null"
                )
        return
    _budget(config)
    for name in (*_BUDGET, "max_grad_norm", "clip_lr", "clip_count_noise"):
        value = getattr(privacy, name)
        if value is not None:
            require(f"privacy.{name}", value, value > 0, "above 0")
    if privacy.delta is None:
        raise ConfigError("privacy.delta is null; an epsilon needs a delta: privacy.delta=1e-5")
    delta = privacy.delta
    require("privacy.delta", delta, 0 < delta < 0.1, "above 0 and well below 1/n, as in 1e-5")
    if privacy.max_grad_norm is None:
        raise ConfigError(
            "privacy.max_grad_norm is null; noise needs a clip: "
            "privacy.max_grad_norm=${model.max_grad_norm}"
        )
    _clip(config)
    require("privacy.trials", privacy.trials, privacy.trials >= 1, "1 (no tuning) or more")
    if privacy.sampling == "fixed" and privacy.accountant != "rdp":
        raise ConfigError(
            f"privacy.sampling=fixed has no bound by privacy.accountant={privacy.accountant}; "
            "set privacy.accountant=rdp, or privacy.sampling=poisson"
        )
    if privacy.unit == "client":
        _client_level(config)
    if privacy.unit == "column" and config.task.unit_column is None:
        raise ConfigError(
            "privacy.unit=column: task.unit_column is null; name the column whose rows are "
            "protected together, or use privacy.unit=text"
        )
    most = privacy.rows_per_unit
    if most is not None:
        require("privacy.rows_per_unit", most, most >= 1, "1 or more, or null for all")
        if privacy.unit not in ("text", "column"):
            raise ConfigError(
                f"privacy.rows_per_unit={most} has no effect under privacy.unit={privacy.unit}; "
                "use privacy.unit=text or column, or null"
            )


def _clip(config: Config) -> None:
    """Clip rules and the adaptive clip are for gradients; a client's upload has one norm."""
    privacy = config.privacy
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
            "noise their gradients anyway); use privacy=client, or central"
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


def _budget(config: Config) -> None:
    """A target, a noise multiplier, or both (then as many rounds as the target affords)."""
    privacy = config.privacy
    if privacy.epsilon_target is None and privacy.noise_multiplier is None:
        raise ConfigError(
            f"privacy.epsilon_target is null with privacy.unit={privacy.unit}; set it, or "
            "privacy.noise_multiplier, or privacy=none"
        )


def _client_level(config: Config) -> None:
    """What the mechanism and its accountant assume of a round."""
    federation = config.federation
    if config.privacy.sampling != "poisson":
        raise ConfigError(
            f"privacy.sampling={config.privacy.sampling} is about the rows of a batch; under "
            "privacy.unit=client use privacy.sampling=poisson"
        )
    if federation.cohort_sampling == "fixed" and config.privacy.client_noise == "central":
        raise ConfigError(
            "federation.cohort_sampling=fixed is not covered by the accountant under "
            "privacy.unit=client; use poisson or full"
        )
    if federation.weights != "uniform":
        raise ConfigError(
            f"federation.weights={federation.weights} breaks the bound on one client's share under "
            "privacy.unit=client; use federation.weights=uniform"
        )
