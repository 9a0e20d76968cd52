"""Refuses a plan whose delta does not fit its units, and warns of weaknesses of a valid one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import FederationConfig
from ffalora_cli.privacy.rounding import epsilon_text

if TYPE_CHECKING:
    from ffalora_cli.privacy.planning.plan import PrivacyPlan


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
    if not plan.shared:
        return []
    return [
        f"some units ({plan.unit}) are on several clients, which all release them: composed, that "
        f"is epsilon {epsilon_text(plan.epsilon_claimed)}, and that is the claim"
    ]
