"""The privacy plan: sampling, clip, noise and accountant of a run, fixed together before training.

Everything the mechanism does and the statement claims is read from one ``PrivacyPlan``. Epsilon
spent is a function of the plan and of the steps each client was charged for, of nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.privacy_rules import check_cohort, check_mechanism
from ffalora_cli.config.schema import FederationConfig, PrivacyConfig
from ffalora_cli.privacy.accountants import COARSE, FINE
from ffalora_cli.privacy.adaptive_clip import count_noise_of, gradient_noise
from ffalora_cli.privacy.calibrate import epsilon_of, stored_epsilon
from ffalora_cli.privacy.clipping import ClipKind
from ffalora_cli.privacy.curves import Curves, make_curves
from ffalora_cli.privacy.noise import check_affordable, noise_of_clients
from ffalora_cli.privacy.rules import participation, warnings_of
from ffalora_cli.privacy.sampling import RELATIONS
from ffalora_cli.privacy.schedule import affordable_rounds, planned_rounds
from ffalora_cli.privacy.shared_rows import SharedRows
from ffalora_cli.privacy.worst import worst_epsilon

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SEAMS = ("make_plan",)
"""What an audit may replace; whoever calls it looks it up in this module."""
ENDLESS = 10_000  # a planned epsilon above it is refused
MOST_RATES = 50  # distinct sampling rates planned exactly; beyond, rates go up on a 1 % grid
_MERGED = ("text", "column")  # units that may be on several clients
GRID = 5e-4  # width of the grid of privacy losses then: five times quicker, at most 0.3 % above


@dataclass(frozen=True, eq=False)
class PrivacyPlan:
    """What a run may claim; arrays are ``[num_clients]``.

    Inside a client (``inside_clients``) a step is one local step on its own rows, and ``examples``
    is the number of its units. At unit ``client`` a
    step is one round and ``examples`` is the number of clients. With central noise every client is
    charged for every round (drawn or not) and ``expected_batch`` is the expected cohort; with local
    noise a client is charged for the rounds it takes part in, at rate 1, for replacing all of its
    rows by any others, which moves a clipped upload by up to 2 ``max_grad_norm``.
    """

    unit: Literal["row", "text", "column", "client"]
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
    curves: Curves  # epsilon by steps
    warnings: tuple[str, ...] = ()
    sampling: str = "poisson"
    interval: float = FINE  # grid of privacy losses behind the planned values
    trials: float = 1.0  # expected runs of a random-stopping search; 1 = none
    trial_distribution: str = "geometric"
    shared: SharedRows = field(default_factory=SharedRows)
    clip: ClipKind = "flat"
    clip_quantile: float | None = None  # None: max_grad_norm stays; else it is where C starts
    clip_lr: float = 0.2
    count_noise: Floats | None = None  # sd on a step's count of unclipped examples (adaptive clip)
    client_noise: Literal["central", "local"] = "central"
    rows_per_unit: int | None = None  # most rows of a unit that a step uses; None: all
    epsilon_claimed: float = 0.0  # planned, of the worst unit

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
    def inside_clients(self) -> bool:
        """Whether units are groups of rows of one client."""
        return self.unit != "client"

    @property
    def charges_everybody(self) -> bool:
        """Whether a round costs every client a step: being drawn or not is in the rate."""
        return self.unit == "client" and self.client_noise == "central"

    @property
    def num_clients(self) -> int:
        """Number of clients."""
        return len(self.examples)

    @property
    def relation(self) -> str:
        """What neighbouring data sets differ in."""
        return "replace one" if self.client_noise == "local" else RELATIONS[self.sampling]

    @property
    def bounds_one_row(self) -> bool:
        """Whether one row of a unit of several moves its clipped sum by ``max_grad_norm`` at most.

        A projection does not expand; scaling to nearly C does, and so do rows drawn within a unit
        (another one takes a drawn one's place) and the adaptive clip's count (it flips a bit).
        """
        projects = self.clip != "automatic" and self.clip_quantile is None
        return self.unit in ("text", "column") and projects and self.rows_per_unit is None

    def joint_epsilon(self, steps_taken: Ints, interval: float | None = None) -> float:
        """Epsilon of the worst unit that several clients hold, all of them composed; 0 without.

        Args:
            steps_taken: of each client ``[num_clients]``.
            interval: grid of privacy losses; None for the plan's.
        """
        steps = self.steps_of_clients(steps_taken)
        histories = [[steps[client] for client in held] for held in self.shared.holders]
        width = self.interval if interval is None else interval
        return worst_epsilon(self.accountant, self.sampling, histories, self.delta, width)

    def steps_of_clients(self, steps_taken: Ints) -> list[tuple[float, float, int]]:
        """(noise_multiplier, accounted rate, steps) of each client, as the accountants read it."""
        columns = (self.noise_multiplier, self.accounted_rate, steps_taken)
        return list(zip(*(column.tolist() for column in columns), strict=True))


def make_plan(
    privacy: PrivacyConfig,
    sizes: Sequence[int] | Ints,
    federation: FederationConfig,
    covered: Sequence[str],
    shared: SharedRows | None = None,
) -> PrivacyPlan | None:
    """Plan a run's privacy, or refuse it.

    Any two of epsilon, noise multiplier and rounds give the third: with a target alone the noise is
    calibrated, with a noise alone epsilon follows, and with both a client takes part in as many
    rounds as the target affords, at most ``federation.rounds``.

    Args:
        privacy: ``epsilon_target``, ``noise_multiplier`` or both are set.
        sizes: units of each client ``[num_clients]`` (at unit ``client``: any number above 0).
        federation: participation, rounds, local steps and batch.
        covered: names of all tensors trained under the guarantee, uploaded or not.
        shared: units that several clients hold, from ``find_shared_rows``; a row is on one client.

    Returns:
        The plan; None for ``privacy.unit=none``.

    Raises:
        ConfigError: for a plan that is incomplete, out of range, or not covered by the accountant.
    """
    if privacy.unit == "none":
        return None
    check_mechanism(privacy)
    check_cohort(privacy, federation)
    delta, clip = privacy.delta, privacy.max_grad_norm
    assert delta is not None and clip is not None  # checked
    rows = np.asarray(sizes, dtype=np.int64)
    share = participation(federation, len(rows))
    if privacy.unit == "client":
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
    accounted, interval = _accounted(rate)
    noise = noise_of_clients(privacy, delta, accounted, rounds * per_round, interval)
    mechanisms, row = np.unique(np.stack([noise, accounted], axis=1), axis=0, return_inverse=True)
    row = row.reshape(-1)
    ends = _ends(privacy, delta, mechanisms, rounds, per_round, interval)
    check_affordable(privacy, delta, mechanisms, ends[:, 0], rounds, per_round, interval)
    curves = make_curves(
        privacy.accountant,
        privacy.sampling,
        delta,
        per_round,
        np.concatenate([mechanisms, ends], axis=1),
        row,
    )
    taken = ends[row, 0].astype(np.int64)
    plan = PrivacyPlan(
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
        planned_rounds=taken,
        planned_steps=taken * per_round,
        noise_multiplier=noise,
        epsilon_planned=ends[row, 1],
        curves=curves,
        sampling=privacy.sampling,
        interval=interval,
        trials=float(privacy.trials),
        trial_distribution=privacy.trial_distribution,
        shared=shared if shared is not None and privacy.unit in _MERGED else SharedRows(),
        clip=privacy.clip,
        clip_quantile=privacy.clip_quantile,
        clip_lr=privacy.clip_lr,
        count_noise=_count_noise(privacy, noise, batch),
        client_noise=privacy.client_noise,
        rows_per_unit=privacy.rows_per_unit,
    )
    claimed = max(float(plan.epsilon_planned.max()), plan.joint_epsilon(plan.planned_steps))
    plan = replace(plan, epsilon_claimed=claimed)
    return replace(plan, warnings=warnings_of(plan, federation, rounds))


def _ends(
    privacy: PrivacyConfig,
    delta: float,
    mechanisms: Floats,
    rounds: int,
    per_round: int,
    interval: float,
) -> Floats:
    """(rounds, epsilon after them) of each mechanism (noise, rate) ``[mechanisms, 2]``."""
    target, both = privacy.epsilon_target, privacy.noise_multiplier is not None
    name, sampling = privacy.accountant, privacy.sampling
    found = np.zeros_like(mechanisms)
    for i, (noise, rate) in enumerate(mechanisms.tolist()):
        if sampling == "poisson" and (target is None or not both):
            _refuse_endless("rdp", epsilon_of("rdp", noise, rate, rounds * per_round, delta), noise)

        def after(width: float, count: int, noise: float = noise, rate: float = rate) -> float:
            steps = count * per_round
            return epsilon_of(name, noise, rate, steps, delta, width, sampling)

        count = rounds
        if target is not None and both:
            count = affordable_rounds(
                partial(after, interval), partial(after, COARSE), target, rounds
            )
        steps = count * per_round
        end = stored_epsilon(name, noise, rate, steps, delta, interval, sampling) if steps else 0.0
        _refuse_endless(name, end, noise)
        found[i] = count, end
    return found


def _refuse_endless(accountant: str, epsilon: float, noise: float) -> None:
    """Refuse an epsilon that is infinite, or so large that it takes hours to say how large."""
    if not epsilon <= ENDLESS:
        raise ConfigError(
            f"privacy.noise_multiplier={noise:.4g} spends an epsilon above {ENDLESS:,} "
            f"({accountant.upper()}) at this delta and number of steps, which promises nothing; "
            "add noise, or set privacy=none"
        )


def _accounted(rate: Floats) -> tuple[Floats, float]:
    """Rates to account for, and the width of the grid of privacy losses.

    The real rates on the fine grid; when there are many, rates rounded up to powers of 1.01.
    Epsilon grows with the rate, so that is a valid (slightly larger) bound.
    """
    if len(np.unique(rate)) <= MOST_RATES:
        return rate, FINE
    up: Floats = 1.01 ** np.ceil(np.log(rate) / math.log(1.01))
    return np.minimum(1.0, np.maximum(rate, up)), GRID


def _count_noise(privacy: PrivacyConfig, noise: Floats, batch: Floats) -> Floats | None:
    """Sd on the counts of an adaptive clip; refused where they cost more than the plan has."""
    if privacy.clip_quantile is None:
        return None
    counts = count_noise_of(privacy.clip_count_noise, batch)
    gradient_noise(noise, counts)
    return counts
