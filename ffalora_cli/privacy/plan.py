"""The privacy plan: sampling, clip, noise and accountant of a run, fixed together before training.

Everything the mechanism does and the statement claims is read from one ``PrivacyPlan``. Epsilon
spent is a function of the plan and of the steps each client was charged for, of nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ffalora_cli.config.schema import FederationConfig, PrivacyConfig
from ffalora_cli.privacy.adaptive_clip import count_noise_of, gradient_noise
from ffalora_cli.privacy.calibrate import noise_multiplier, stored_epsilon
from ffalora_cli.privacy.clipping import ClipKind
from ffalora_cli.privacy.rules import (
    check_client_unit,
    check_privacy,
    participation,
    warnings_of,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MOST_RATES = 50  # distinct sampling rates planned exactly; beyond, rates go up on a 1 % grid


@dataclass(frozen=True, eq=False)
class PrivacyPlan:
    """What a run may claim; arrays are ``[num_clients]``.

    At unit ``example`` a step is one local step of a client on its own rows. At unit ``client`` a
    step is one round and ``examples`` is the number of clients. With central noise every client is
    charged for every round (drawn or not) and ``expected_batch`` is the expected cohort; with local
    noise a client is charged for the rounds it takes part in, at rate 1, for replacing all of its
    rows by any others, which moves a clipped upload by up to 2 ``max_grad_norm``.
    """

    unit: Literal["example", "client"]
    accountant: str
    delta: float
    max_grad_norm: float
    calibration: str
    noise: str  # "reproducible" | "secure"
    epsilon_target: float | None
    steps_per_round: int
    covered: tuple[str, ...]  # names of the tensors that are clipped and noised
    examples: Ints  # units that the rate is a share of
    sample_rate: Floats
    accounted_rate: Floats  # >= sample_rate: what epsilon is computed for
    expected_batch: Floats  # the denominator
    planned_rounds: Ints  # a client takes part in no more
    planned_steps: Ints
    noise_multiplier: Floats  # noise sd over sensitivity: what epsilon is computed for
    epsilon_planned: Floats
    warnings: tuple[str, ...] = ()
    relation: str = "add/remove one"
    sampling: str = "poisson"
    clip: ClipKind = "flat"
    clip_quantile: float | None = None  # None: max_grad_norm stays; else it is where C starts
    clip_lr: float = 0.2
    count_noise: Floats | None = None  # sd on a step's count of unclipped examples (adaptive clip)
    client_noise: Literal["central", "local"] = "central"

    @property
    def added_noise(self) -> Floats:
        """Noise sd on what is released (a step's sum, an upload) in units of ``max_grad_norm``.

        The noise multiplier itself, but where the clip adapts (more: the count of unclipped
        examples takes its share) and for local noise (twice: the sensitivity is 2C).
        """
        if self.client_noise == "local":
            return 2.0 * self.noise_multiplier
        if self.count_noise is None:
            return self.noise_multiplier
        return gradient_noise(self.noise_multiplier, self.count_noise)

    @property
    def charges_everybody(self) -> bool:
        """Whether a round costs every client a step: being drawn or not is in the rate."""
        return self.unit == "client" and self.client_noise == "central"

    @property
    def num_clients(self) -> int:
        """Number of clients."""
        return len(self.examples)


def make_plan(
    privacy: PrivacyConfig,
    sizes: Sequence[int] | Ints,
    federation: FederationConfig,
    covered: Sequence[str],
) -> PrivacyPlan | None:
    """Plan a run's privacy, or refuse it.

    Args:
        privacy: exactly one of ``epsilon_target`` and ``noise_multiplier`` is set.
        sizes: training rows of each client ``[num_clients]``.
        federation: participation, rounds, local steps and batch.
        covered: names of all tensors trained under the guarantee, uploaded or not.

    Returns:
        The plan; None for ``privacy.unit=none``.

    Raises:
        ConfigError: for a plan that is incomplete, out of range, or not covered by the accountant.
    """
    if privacy.unit == "none":
        return None
    delta, clip = check_privacy(privacy)
    rows = np.asarray(sizes, dtype=np.int64)
    share = participation(federation, len(rows))
    if privacy.unit == "client":
        check_client_unit(federation, share, privacy.client_noise)
        units = np.full(len(rows), len(rows), dtype=np.int64)
        batch, rate, per_round = np.full(len(rows), share * len(rows)), np.full(len(rows), share), 1
        rounds = federation.rounds  # a round is a step whether or not the client was drawn
        if privacy.client_noise == "local":  # the server sees who uploads: no amplification
            batch, rate = np.ones(len(rows)), np.ones(len(rows))
            rounds = planned_rounds(federation.rounds, share)
    else:
        units, batch = rows, np.minimum(federation.local_batch_size, rows).astype(np.float64)
        rate = batch / rows
        rounds = planned_rounds(federation.rounds, share)
        per_round = federation.local_steps
    steps = rounds * per_round
    accounted = _accounted(rate)
    noise = _noise(privacy, delta, accounted, steps)
    planned = _each(
        lambda s, q: stored_epsilon(privacy.accountant, s, q, steps, delta), noise, accounted
    )
    local = privacy.unit == "client" and privacy.client_noise == "local"
    return PrivacyPlan(
        unit=privacy.unit,
        accountant=privacy.accountant,
        delta=delta,
        max_grad_norm=clip,
        calibration=privacy.calibration,
        noise=privacy.noise,
        epsilon_target=privacy.epsilon_target,
        steps_per_round=per_round,
        covered=tuple(covered),
        examples=units,
        sample_rate=rate,
        accounted_rate=accounted,
        expected_batch=batch,
        planned_rounds=np.full(len(rows), rounds, dtype=np.int64),
        planned_steps=np.full(len(rows), steps, dtype=np.int64),
        noise_multiplier=noise,
        epsilon_planned=planned,
        warnings=warnings_of(privacy, delta, units, federation.local_batch_size, planned),
        relation="replace one" if local else "add/remove one",
        sampling="unamplified" if local else "poisson",
        clip=privacy.clip,
        clip_quantile=privacy.clip_quantile,
        clip_lr=privacy.clip_lr,
        count_noise=_count_noise(privacy, noise, batch),
        client_noise=privacy.client_noise,
    )


def planned_rounds(rounds: int, share: float) -> int:
    """Upper plan of the rounds one client takes part in: mean + 4 sd, at most all of them.

    The K local steps of a round share one coin, so participation does not amplify per step; the
    plan bounds the count and the runner keeps to it.
    """
    spread = 4.0 * math.sqrt(rounds * share * (1.0 - share))
    return min(rounds, math.ceil(share * rounds + spread))


def _accounted(rate: Floats) -> Floats:
    """Rates to account for: the real ones, or rounded up on a 1 % grid when there are many.

    Epsilon grows with the rate, so the grid's epsilon is a valid (at most slightly larger) bound.
    """
    if len(np.unique(rate)) <= MOST_RATES:
        return rate
    up: Floats = 1.01 ** np.ceil(np.log(rate) / math.log(1.01))
    return np.minimum(1.0, np.maximum(rate, up))


def _noise(privacy: PrivacyConfig, delta: float, rate: Floats, steps: int) -> Floats:
    target, given = privacy.epsilon_target, privacy.noise_multiplier
    if target is None:
        return np.full(len(rate), given, dtype=np.float64)
    if privacy.calibration == "shared":  # one noise, by the client that is drawn most often
        rate = np.full(len(rate), rate.max())
    return _each(lambda q: noise_multiplier(privacy.accountant, target, delta, q, steps), rate)


def _count_noise(privacy: PrivacyConfig, noise: Floats, batch: Floats) -> Floats | None:
    """Sd on the counts of an adaptive clip; refused where they cost more than the plan has."""
    if privacy.clip_quantile is None:
        return None
    counts = count_noise_of(privacy.clip_count_noise, batch)
    gradient_noise(noise, counts)
    return counts


def _each(function: Callable[..., float], *columns: npt.NDArray[np.generic]) -> Floats:
    """Apply to every client, computing equal clients once."""
    rows = np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)
    distinct, where = np.unique(rows, axis=0, return_inverse=True)
    values = [function(*(value.item() for value in row)) for row in distinct]
    return np.asarray(values, dtype=np.float64)[where.reshape(-1)]
