"""From a target epsilon to the noise multiplier that spends it.

Our own root finder: Opacus' stops within 0.01 of epsilon, half a percent of the noise at epsilon 1.
This one ends within 1e-5 (relative) of the root, on the side where the target is not passed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ffalora_cli.config.errors import ConfigError

TOLERANCE = 1e-5  # relative, in the noise multiplier
LEAST, MOST = 0.2, 1e6  # noise multipliers a calibration may return

Epsilon = Callable[[float], float]  # of a noise multiplier


def calibrate(
    name: str,
    target: float,
    exact: Epsilon,
    quicker: Sequence[tuple[Epsilon, float]],
    guess: float,
) -> float:
    """Smallest noise multiplier within a target epsilon; see ``Accountant.noise_for``.

    Args:
        name: of the accountant, for people.
        target: epsilon.
        exact: epsilon of a noise multiplier.
        quicker: near to ``exact``, each better than the one before, and how near to search them.
        guess: of the noise, to begin with.
    """
    slope = -1.5
    for evaluate, tolerance in quicker:
        guess, slope = _root(evaluate, target, guess, slope, tolerance)
    noise, _ = _root(exact, target, guess, slope)
    _check_reached(exact, noise, name, target)
    return noise


def _root(
    evaluate: Epsilon, target: float, guess: float, slope: float, tolerance: float = TOLERANCE
) -> tuple[float, float]:
    """Secant steps in (log noise, log epsilon), kept inside a shrinking bracket.

    ``slope`` is the first estimate of d log epsilon / d log noise. Aims half the tolerance above
    the root and stops once the distance to it, judged by the slope or the bracket, is below the
    tolerance.

    Returns:
        (noise, slope); noise is ``LEAST`` or ``MOST`` when the root lies beyond them.
    """
    below, above = 0.0, math.inf  # noises known to pass, and not to pass, the target
    last: tuple[float, float] | None = None
    noise = min(max(guess, LEAST), MOST)
    for _ in range(100):
        value = evaluate(noise)
        below, above = (noise, above) if value > target else (below, noise)
        if 0.0 < value < math.inf:
            point = (math.log(noise), math.log(value))
            if last is not None and (point[1] - last[1]) * (point[0] - last[0]) < 0.0:
                slope = min(-0.2, (point[1] - last[1]) / (point[0] - last[0]))
            last = point
            gap = math.log(value / target) / -slope  # log distance to the root
            if value <= target and (-gap <= tolerance or noise == LEAST):
                return noise, slope
            step = min(max(gap + tolerance / 2, -math.log(4)), math.log(4))
        else:
            step = math.log(4) if value > target else -math.log(4)
        if above <= below * (1 + tolerance) or below >= MOST or above <= LEAST:
            return min(above, MOST), slope
        noise = _inside(noise * math.exp(step), below, above)
    return min(above, MOST), slope


def _inside(noise: float, below: float, above: float) -> float:
    """``noise`` when strictly between the ends, else their middle (geometric)."""
    noise = min(max(noise, LEAST), MOST)
    if below < noise < above:
        return noise
    return math.sqrt(max(below, LEAST) * min(above, MOST))


def _check_reached(evaluate: Epsilon, noise: float, accountant: str, target: float) -> None:
    reached = evaluate(noise)
    if 0.999 * target <= reached <= target:
        return
    key = f"privacy.epsilon_target={target:g}"
    if reached > target:
        other = "" if accountant == "pld" else ", or use privacy.accountant=pld"
        raise ConfigError(
            f"{key} is below what privacy.accountant={accountant} can prove with any noise; "
            f"raise it to {reached * 1.01:.3g}{other}"
        )
    if noise <= LEAST:
        raise ConfigError(
            f"{key} needs almost no noise (a noise multiplier of {LEAST} spends {reached:.4g}); "
            f"lower the target or set privacy.noise_multiplier={LEAST} instead of it"
        )
    raise ConfigError(
        f"{key} is finer than privacy.accountant={accountant} can tell; "
        f"set privacy.noise_multiplier={noise:.4g} instead of it"
    )
