"""The batches of a cohort's round, by the sampler that the privacy plan accounts for."""

from __future__ import annotations

import numpy as np

from ffalora_cli.config.schema import FederationConfig
from ffalora_cli.data import batches
from ffalora_cli.data.partition import ClientRows
from ffalora_cli.keys import Key
from ffalora_cli.privacy.ledger import PrivacyLedger
from ffalora_cli.privacy.plan import PrivacyPlan


def draw_round(
    config: FederationConfig,
    clients: ClientRows,
    round: int,
    ids: np.ndarray,
    seed: int,
    secret: Key,
    plan: PrivacyPlan | None,
    ledger: PrivacyLedger | None,
) -> list[batches.StepBatches]:
    """Rows of every local step.

    Args:
        config: the federation group.
        clients: rows of everybody.
        round: from 1.
        ids: of the cohort ``[cohort]``.
        seed: of the shuffled epochs without example-level privacy.
        secret: key of the private samplers.
        plan: privacy plan, or None.
        ledger: charged for this round already.
    """
    size, count = config.local_batch_size, config.local_steps
    sampling = plan.sampling if plan is not None and plan.inside_clients else "epoch"
    before = np.full(len(ids), (round - 1) * count)
    if sampling == "shuffled" and ledger is not None:  # a client's own steps: no gaps in its epochs
        before = ledger.steps_before(round + 1)[ids] - count
    steps = []
    for step in range(count):
        drawn = []
        for client, at in zip(ids.tolist(), (before + step).tolist(), strict=True):
            rows = clients.of(client)
            if sampling == "poisson":
                assert plan is not None
                rate = float(plan.sample_rate[client])
                drawn.append(batches.poisson_batch(secret, client, round, step, rows, rate))
            elif sampling == "fixed":
                drawn.append(batches.fixed_batch(secret, client, round, step, rows, size))
            elif sampling == "shuffled":
                drawn.append(batches.shuffled_batch(secret, client, at, rows, size))
            else:
                drawn.append(batches.epoch_batch(seed, client, at, rows, size))
        steps.append(batches.stack_step(drawn))
    return steps
