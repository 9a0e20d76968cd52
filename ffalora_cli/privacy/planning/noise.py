"""The noise multiplier of every client: given, shared, or calibrated to the client's own rate."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import PrivacyConfig
from ffalora_cli.privacy.accounting.accountant import Accountant

Floats = npt.NDArray[np.float64]

KNOTS = 50  # more distinct rates than this are calibrated at every KNOT_STEP-th and between them
KNOT_STEP = 8
MARGIN = 2e-4  # relative; noise between two knots is raised by it (epsilon falls by some 3e-4)


def noise_of_clients(
    privacy: PrivacyConfig, accountant: Accountant, rate: Floats, steps: int
) -> Floats:
    """Noise multipliers ``[num_clients]``.

    Args:
        privacy: with a noise multiplier, or a target that is calibrated to.
        accountant: of the plan.
        rate: accounted sampling rates ``[num_clients]``.
        steps: a client may take.

    Raises:
        ConfigError: for a target that no noise reaches.
    """
    target, given = privacy.epsilon_target, privacy.noise_multiplier
    if given is not None:
        return np.full(len(rate), given, dtype=np.float64)
    assert target is not None
    if privacy.calibration == "shared":  # one noise, by the client that is drawn most often
        rate = np.full(len(rate), rate.max())
    rates, where = np.unique(rate, return_inverse=True)

    def solved(value: float) -> float:
        return accountant.noise_for(target, value, steps)

    def spent(noise: float, value: float) -> float:
        return accountant.epsilon([(noise, value, steps)])

    if len(rates) <= KNOTS:
        found = np.array([solved(value) for value in rates.tolist()])
    else:
        found = _between_knots(rates, solved, spent, target)
    return found[where.reshape(-1)]


def _between_knots(
    rates: Floats,
    solved: Callable[[float], float],
    spent: Callable[[float, float], float],
    target: float,
) -> Floats:
    """Calibrate some rates and interpolate the others (log-log), each checked against the target.

    Epsilon of every interpolated value is computed; one outside [0.999, 1] times the target is
    calibrated like a knot.
    """
    from scipy.interpolate import PchipInterpolator

    knots = np.unique(np.append(np.arange(0, len(rates), KNOT_STEP), len(rates) - 1))
    at_knots = np.array([solved(value) for value in rates[knots].tolist()])
    smooth = PchipInterpolator(np.log(rates[knots]), np.log(at_knots))
    found: Floats = np.exp(smooth(np.log(rates))) * (1.0 + MARGIN)
    found[knots] = at_knots
    for i in np.setdiff1d(np.arange(len(rates)), knots).tolist():
        if not 0.999 * target <= spent(float(found[i]), float(rates[i])) <= target:
            found[i] = solved(float(rates[i]))
    return found


def check_affordable(
    privacy: PrivacyConfig,
    accountant: Accountant,
    mechanisms: Floats,
    affordable: Floats,
    rounds: int,
    steps: int,
) -> None:
    """Refuse a noise with which no client can take part in even one round.

    With ``budget_guard=refuse``: with which not every client can take part in all rounds.

    Args:
        privacy: with target and noise multiplier.
        accountant: of the plan.
        mechanisms: columns noise multiplier, rate ``[mechanisms, 2]``.
        affordable: rounds within the target ``[mechanisms]``.
        rounds: wanted.
        steps: of one round.
    """
    target, refuse = privacy.epsilon_target, privacy.budget_guard == "refuse"
    if target is None or bool((affordable >= rounds).all() if refuse else (affordable > 0).any()):
        return
    rates = mechanisms[:, 1]
    rate = float(rates.max() if refuse else rates.min())
    needed = accountant.noise_for(target, rate, steps * (rounds if refuse else 1))
    least = int(affordable.min())
    count = f"{least} of {rounds} rounds" if refuse and least else "one round"
    afford = "affords only" if refuse and least else "does not afford"
    stop = ", or privacy.budget_guard=stop" if refuse and least else ""
    raise ConfigError(
        f"privacy.noise_multiplier={privacy.noise_multiplier:g} {afford} {count} within "
        f"privacy.epsilon_target={target:g}; set at least {math.ceil(needed * 1e4) / 1e4:g}, or "
        f"privacy.noise_multiplier=null{stop}"
    )
