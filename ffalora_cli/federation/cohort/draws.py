"""Draws the batches of a cohort's round, by the sampler that the privacy plan accounts for."""

from __future__ import annotations

import numpy as np

from ffalora_cli.config.schema import FederationConfig
from ffalora_cli.data.partition.partition import ClientRows
from ffalora_cli.engine.job import StepBatches, stack_step
from ffalora_cli.keys import Key
from ffalora_cli.privacy.ledger import PrivacyLedger
from ffalora_cli.privacy.mechanism import batches
from ffalora_cli.privacy.planning.plan import PrivacyPlan


def draw_round(
    config: FederationConfig,
    clients: ClientRows,
    round: int,
    ids: np.ndarray,
    seed: int,
    secret: Key,
    plan: PrivacyPlan | None,
    ledger: PrivacyLedger | None,
    exchange: int = 0,
    exchanges: int = 1,
) -> list[StepBatches]:
    """Rows of every local step of an exchange.

    Under privacy inside clients units are drawn, with all their rows (``privacy.rows_per_unit`` of
    them at most); what is not private draws rows.

    Args:
        config: the federation group.
        clients: rows of everybody.
        round: from 1.
        ids: of the cohort ``[cohort]``.
        seed: of the shuffled epochs without example-level privacy.
        secret: key of the private samplers, in this exchange.
        plan: privacy plan, or None.
        ledger: charged for this round already.
        exchange: within the round.
        exchanges: of every round.
    """
    sampling = plan.accountant.sampling if plan is not None and plan.inside_clients else "epoch"
    count = config.local_steps
    before = np.full(len(ids), ((round - 1) * exchanges + exchange) * count)
    if sampling == "shuffled" and ledger is not None:  # a client's own steps: no gaps in its epochs
        before = ledger.steps_before(round + 1)[ids] - (exchanges - exchange) * count
    steps = []
    for step in range(count):
        drawn, units = [], []
        for client, at in zip(ids.tolist(), (before + step).tolist(), strict=True):
            rows, of = clients.of(client), clients.units_of(client)
            if plan is None or sampling == "epoch":
                drawn.append(batches.epoch_batch(seed, client, at, rows, config.local_batch_size))
                continue
            pool = rows if of is None else np.arange(int(plan.examples[client]))
            chosen = _draw(config, plan, secret, client, round, step, at, pool)
            if of is not None:
                key, place, most = secret, (client, round, step), plan.rows_per_unit
                chosen, own = batches.rows_of_units(key, *place, chosen, rows, of, most)
                units.append(own)
            drawn.append(chosen)
        steps.append(stack_step(drawn, units))
    return steps


def _draw(
    config: FederationConfig,
    plan: PrivacyPlan,
    secret: Key,
    client: int,
    round: int,
    step: int,
    position: int,
    pool: np.ndarray,
) -> np.ndarray:
    """A private batch from a client's pool of units (its rows, where each is its own)."""
    size = config.local_batch_size
    match plan.accountant.sampling:
        case "poisson":
            rate = float(plan.sample_rate[client])
            return batches.poisson_batch(secret, client, round, step, pool, rate)
        case "fixed":
            return batches.fixed_batch(secret, client, round, step, pool, size)
        case _:
            return batches.shuffled_batch(secret, client, position, pool, size)
