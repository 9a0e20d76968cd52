"""Any two of epsilon, noise multiplier and steps give the third, for one client."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.privacy_rules import LEAST_NOISE, check_delta
from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.privacy.accounting.accountants import COARSE

MOST_STEPS = 1_000_000


@dataclass(frozen=True)
class Budget:
    """A solved plan of one client by one accountant (Poisson, add/remove one)."""

    accountant: str
    epsilon: float
    delta: float
    noise_multiplier: float
    sample_rate: float
    steps: int


def solve(
    accountant: str,
    examples: int,
    batch: int,
    delta: float,
    epsilon: float | None,
    noise: float | None,
    steps: int | None,
) -> Budget:
    """Complete a plan of which exactly one of epsilon, noise and steps is None.

    Args:
        accountant: ``pld``, ``rdp`` or ``prv``.
        examples: rows of the client.
        batch: expected batch size.
        delta: in (0, 1).
        epsilon: target, not to be passed.
        noise: multiplier, in units of the clip.
        steps: local steps in all.

    Raises:
        ConfigError: for a plan that is out of range or cannot be reached; names the nearest.
    """
    _check(examples, batch, delta, epsilon, noise, steps)
    rate, by = batch / examples, Accountant(accountant, delta)
    if noise is None:
        assert epsilon is not None and steps is not None
        noise = by.noise_for(epsilon, rate, steps)
    if steps is None:
        assert epsilon is not None
        steps = _steps(by, epsilon, rate, noise)
    found = by.epsilon([(noise, rate, steps)])
    return Budget(accountant, found, delta, noise, rate, steps)


def _steps(accountant: Accountant, target: float, rate: float, noise: float) -> int:
    most, quick = 1, replace(accountant, name="rdp", interval=COARSE)
    # Milliseconds, and never below the others but for PRV's 0.01.
    while most < MOST_STEPS and quick.epsilon([(noise, rate, most)]) <= 2.0 * target + 1.0:
        most = min(MOST_STEPS, most * 4)
    found = accountant.rounds_within(target, noise, rate, 1, most)
    if found == 0:
        needed = accountant.noise_for(target, rate, 1)
        raise ConfigError(
            f"--noise-multiplier {noise:g} does not afford one step within --epsilon {target:g}; "
            f"give at least {math.ceil(needed * 1e4) / 1e4:g}"
        )
    return found


def _check(
    examples: int,
    batch: int,
    delta: float,
    epsilon: float | None,
    noise: float | None,
    steps: int | None,
) -> None:
    if sum(value is None for value in (epsilon, noise, steps)) != 1:
        raise ConfigError(
            "give exactly two of --epsilon, --noise-multiplier and --steps; the third is computed"
        )
    if examples < 1:
        raise ConfigError(f"--examples {examples} is below 1; give the rows of one client")
    if not 1 <= batch <= examples:
        raise ConfigError(
            f"--batch {batch} of --examples {examples} is a sampling rate of "
            f"{batch / examples:.3g}; give 1 to {examples}"
        )
    check_delta("--delta", delta)
    if epsilon is not None and not 0.0 < epsilon < math.inf:
        raise ConfigError(f"--epsilon {epsilon:g} is not a positive number; give e.g. 6")
    if noise is not None and not LEAST_NOISE <= noise < math.inf:
        raise ConfigError(f"--noise-multiplier {noise:g} is too small; give {LEAST_NOISE} or more")
    if steps is not None and not 1 <= steps <= MOST_STEPS:
        raise ConfigError(f"--steps {steps} is out of range; give 1 to {MOST_STEPS}")
