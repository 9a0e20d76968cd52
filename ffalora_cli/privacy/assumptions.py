"""What the same noise means under other assumptions: the numbers beside the claim."""

from __future__ import annotations

from typing import Any

from ffalora_cli.privacy.accountants import FINE
from ffalora_cli.privacy.calibrate import stored_epsilon
from ffalora_cli.privacy.disk_cache import load, store
from ffalora_cli.privacy.plan import PrivacyPlan
from ffalora_cli.privacy.sampling import replace_one_poisson
from ffalora_cli.privacy.tuning import tuned_epsilon


def other_assumptions(plan: PrivacyPlan, client: int, steps: int) -> dict[str, Any]:
    """Epsilon of one client's steps by other accountants, for replacing, and without amplification.

    Args:
        plan: of the run.
        client: its id.
        steps: that it took or is planned to take.

    Returns:
        ``accountants`` (name to epsilon, the plan's sampler and relation), ``replace_one`` (one
        unit exchanged for another) and ``no_amplification`` (every row used once an epoch, zero
        out one), all at the plan's delta.
    """
    noise, rate = float(plan.noise_multiplier[client]), float(plan.accounted_rate[client])
    names = ("rdp",) if plan.sampling == "fixed" else ("pld", "rdp")

    def stored(name: str, noise: float, sampling: str) -> float:
        return stored_epsilon(name, noise, rate, steps, plan.delta, FINE, sampling)

    claimed = {name: stored(name, noise, plan.sampling) for name in names}
    if plan.sampling == "fixed":
        replaced = claimed["rdp"]
    elif plan.sampling == "shuffled" or rate == 1.0:  # a Gaussian with twice the sensitivity
        replaced = stored("pld", noise / 2.0, plan.sampling)
    else:
        replaced = _replaced(noise, rate, steps, plan.delta)
    return {
        "accountants": claimed,
        "replace_one": replaced,
        "no_amplification": stored("pld", noise, "shuffled"),
    }


def tuning(plan: PrivacyPlan, client: int, steps: int) -> float | None:
    """Epsilon of choosing the best of ``plan.trials`` runs; None without tuning."""
    if plan.trials <= 1.0:
        return None
    return tuned_epsilon(
        plan.sampling,
        float(plan.noise_multiplier[client]),
        float(plan.accounted_rate[client]),
        steps,
        plan.delta,
        plan.trials,
        plan.trial_distribution,
    )


def _replaced(noise: float, rate: float, steps: int, delta: float) -> float:
    """Poisson sampling, replace one; half a second, so kept on disk."""
    if steps == 0:
        return 0.0
    question: dict[str, str | float | int | list[int]] = {
        "replace one": 1,
        "noise_multiplier": noise,
        "sample_rate": rate,
        "steps": steps,
        "delta": delta,
        "interval": FINE,
    }
    known = load(question)
    if known is None:
        known = replace_one_poisson(noise, rate, steps, delta, FINE)
        store(question, known)
    return known
