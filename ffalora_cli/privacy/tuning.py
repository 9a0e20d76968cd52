"""What choosing the best of several private runs costs (Papernot and Steinke, ICLR 2022)."""

from __future__ import annotations

import math

from ffalora_cli.privacy.sampling import fixed_size_event, uses

SHAPES = {"geometric": 1.0, "poisson": math.inf}  # of the negative binomial family


def tuned_epsilon(
    sampling: str,
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    delta: float,
    trials: float,
    distribution: str,
) -> float:
    """Epsilon of publishing the best of a random number of equal runs (RDP, dp-accounting).

    Holds only if the number of runs is drawn from the distribution before the first one and every
    run is on the same rows; a fixed grid composes instead.

    Args:
        sampling: of the runs.
        noise_multiplier: of one run.
        sample_rate: of one run.
        steps: of one run.
        delta: in (0, 1), of the whole search.
        trials: mean number of runs, > 1.
        distribution: of that number: ``geometric`` or ``poisson``.

    Returns:
        Epsilon at ``delta``, relation as for one run; ``inf`` without noise.
    """
    from dp_accounting import (
        GaussianDpEvent,
        NeighboringRelation,
        PoissonSampledDpEvent,
        SelfComposedDpEvent,
    )
    from dp_accounting.dp_event import RepeatAndSelectDpEvent
    from dp_accounting.rdp import RdpAccountant

    relation = NeighboringRelation.ADD_OR_REMOVE_ONE
    if steps == 0:
        return 0.0
    if sampling == "fixed":
        relation = NeighboringRelation.REPLACE_ONE
        run = SelfComposedDpEvent(fixed_size_event(noise_multiplier / 2.0, sample_rate), steps)
    elif sampling == "shuffled":
        run = SelfComposedDpEvent(GaussianDpEvent(noise_multiplier), uses(sample_rate, steps))
    else:
        step = PoissonSampledDpEvent(sample_rate, GaussianDpEvent(noise_multiplier))
        run = SelfComposedDpEvent(step, steps)
    accountant = RdpAccountant(neighboring_relation=relation)
    accountant.compose(RepeatAndSelectDpEvent(run, trials, SHAPES[distribution]))
    return float(accountant.get_epsilon(delta))
