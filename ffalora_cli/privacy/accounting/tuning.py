"""Computes what choosing the best of several private runs costs.

A *random* number of runs, drawn before the first one: Papernot and Steinke (ICLR 2022), by RDP.
A *fixed* number (a grid) composes trial by trial. Every run is on the same rows by the same
mechanism.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ffalora_cli.privacy.accounting.accountant import Accountant, Steps, merged
from ffalora_cli.privacy.accounting.disk_cache import Question, answered
from ffalora_cli.privacy.accounting.sampling import History, fixed_size_event, uses

SHAPES = {"geometric": 1.0, "poisson": math.inf}  # of the negative binomial family


def epsilon_of_search(
    accountant: Accountant, histories: Iterable[History], trials: float, distribution: str
) -> float:
    """Epsilon of publishing the best of several equal runs, of the unit for which it is largest.

    Args:
        accountant: of one run, its delta that of the whole search; a fixed number of runs is
            composed by it.
        histories: what one run releases of each unit: all clients that hold it together.
        trials: number of runs (its mean where it is random), > 1.
        distribution: ``geometric``, ``poisson`` or ``fixed``.
    """
    distinct = {found for history in histories if (found := merged(history))}
    if distribution == "fixed":
        grid = [[(noise, rate, n * round(trials)) for noise, rate, n in h] for h in distinct]
        return accountant.worst(grid)
    sampling, delta = accountant.sampling, accountant.delta
    return max(
        (tuned_epsilon(sampling, history, delta, trials, distribution) for history in distinct),
        default=0.0,
    )


def tuned_epsilon(
    sampling: str, history: Steps, delta: float, trials: float, distribution: str
) -> float:
    """Epsilon of publishing the best of a random number of runs (dp-accounting, RDP).

    Args:
        sampling: of the runs.
        history: of one run.
        delta: of the whole search.
        trials: mean number of runs, > 1.
        distribution: of that number: ``geometric`` or ``poisson``.

    Returns:
        Epsilon at ``delta``, relation as for one run; ``inf`` without noise.
    """
    question: Question = {
        "search": repr(history),
        "sampling": sampling,
        "delta": delta,
        "trials": trials,
        "distribution": distribution,
    }
    shape = SHAPES[distribution]
    return answered(question, lambda: _selected(sampling, history, delta, trials, shape))


def _selected(sampling: str, history: Steps, delta: float, trials: float, shape: float) -> float:
    from dp_accounting import ComposedDpEvent, NeighboringRelation
    from dp_accounting.dp_event import RepeatAndSelectDpEvent
    from dp_accounting.rdp import RdpAccountant

    relation = NeighboringRelation.ADD_OR_REMOVE_ONE
    if sampling == "fixed":
        relation = NeighboringRelation.REPLACE_ONE
    if not history:
        return 0.0
    run = ComposedDpEvent([_event(sampling, *steps) for steps in history])
    accountant = RdpAccountant(neighboring_relation=relation)
    with _no_warnings():
        accountant.compose(RepeatAndSelectDpEvent(run, trials, shape))
    return float(accountant.get_epsilon(delta))


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Of orders that are left out at small noise: with fewer of them the bound is never lower."""
    from absl import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _event(sampling: str, noise_multiplier: float, sample_rate: float, steps: int) -> Any:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent

    if sampling == "fixed":  # replacing a row moves the sum by two clips
        return SelfComposedDpEvent(fixed_size_event(noise_multiplier / 2.0, sample_rate), steps)
    if sampling == "shuffled":
        return SelfComposedDpEvent(GaussianDpEvent(noise_multiplier), uses(sample_rate, steps))
    step = PoissonSampledDpEvent(sample_rate, GaussianDpEvent(noise_multiplier))
    return SelfComposedDpEvent(step, steps)
