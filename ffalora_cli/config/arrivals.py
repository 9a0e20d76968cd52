"""Checks rules on what reaches the server: combination, limits, simulated dropouts."""

from __future__ import annotations

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import Config

_SMALLEST = {"trimmed_mean": (2, 1), "krum": (2, 3), "multi_krum": (2, 3)}  # n >= a f + b


def check_arrivals(config: Config, linear: bool) -> None:
    """Refuse combinations that cannot hold what they promise.

    Args:
        config: from ``build``.
        linear: whether the method's result is linear in the uploads.

    Raises:
        ConfigError: the first rule that does not hold.
    """
    federation = config.federation
    _norm(config)
    least, most = federation.min_clients, _cohort(config)
    if least < 0 or (most is not None and least > most):
        raise ConfigError(
            f"federation.min_clients={least} should be 0 (never end the run) to "
            f"{'the size of' if most is None else f'{most},'} the cohort"
        )
    if federation.combination == "mean":
        return
    key = f"federation.combination={federation.combination}"
    if not linear:
        raise ConfigError(
            f"{key}: method={config.method.name} needs the mean of all uploads (it is not linear "
            "in them); use federation.combination=mean, or method=ffa_lora"
        )
    if config.privacy.unit == "client":
        raise ConfigError(
            f"{key} breaks the bound on one client's share under privacy.unit=client; use "
            "federation.combination=mean (every upload is clipped anyway)"
        )
    _assumed_bad(config)


def _norm(config: Config) -> None:
    norm = config.federation.max_upload_norm
    if norm is not None and norm <= 0:
        raise ConfigError(
            f"federation.max_upload_norm={norm} should be above 0, or null for 10 times the usual"
        )
    if norm is not None and config.privacy.unit == "client":
        raise ConfigError(
            f"federation.max_upload_norm={norm} has no effect under privacy.unit=client, where "
            "privacy.max_grad_norm clips every upload; set federation.max_upload_norm=null"
        )


def _assumed_bad(config: Config) -> None:
    """The number of bad clients a rule is asked to bear against the clients it has."""
    rule, bad = config.federation.combination, config.federation.assumed_bad
    if rule not in _SMALLEST:
        return
    factor, offset = _SMALLEST[rule]
    clients = _cohort(config)
    if clients is None:
        return
    most = (clients - offset) // factor
    if most < 0:
        raise ConfigError(
            f"federation.combination={rule} needs at least {offset} clients a round, not {clients};"
            " use federation.combination=median"
        )
    if bad is None:
        raise ConfigError(
            f"federation.assumed_bad is null, and federation.combination={rule} needs it, at most "
            f"{most} of {clients} clients; set federation.assumed_bad={most}"
        )
    if not 0 <= bad <= most:
        raise ConfigError(
            f"federation.assumed_bad={bad}: {rule} of {clients} clients bears at most {most} (it "
            f"needs {factor} f + {offset}); set federation.assumed_bad={max(0, most)}"
            + (", or combination=median" if most == 0 else "")
        )


def _cohort(config: Config) -> int | None:
    """Clients of a round, before anyone drops out (the expected number for Poisson cohorts).

    None while only the data knows (``FederationConfig.num_clients``).
    """
    return config.federation.cohort_size or config.federation.num_clients
