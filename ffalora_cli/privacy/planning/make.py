"""Makes a privacy plan of budget, federation and sizes of clients, or refuses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.privacy_rules import check_cohort, check_mechanism
from ffalora_cli.config.schema import FederationConfig, PrivacyConfig
from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.privacy.accounting.curves import make_curves
from ffalora_cli.privacy.mechanism.adaptive_clip import planned_count_noise
from ffalora_cli.privacy.planning.exposure import Exposure, exposure_of
from ffalora_cli.privacy.planning.noise import check_affordable, noise_of_clients
from ffalora_cli.privacy.planning.plan import PrivacyPlan
from ffalora_cli.privacy.planning.rules import warnings_of
from ffalora_cli.privacy.planning.shared_rows import Holders
from ffalora_cli.types import Floats, Ints

SEAMS = ("make_plan",)
"""What an audit may replace; whoever calls it looks it up in this module."""
ENDLESS = 10_000  # a planned epsilon above it is refused
_MERGED = ("text", "column")  # units that may be on several clients


def make_plan(
    privacy: PrivacyConfig,
    sizes: Sequence[int] | Ints,
    federation: FederationConfig,
    covered: Sequence[str],
    shared: Holders = (),
    exchanges: int = 1,
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
        exchanges: of a round: as often a client releases its local steps, or the server its sum.

    Returns:
        The plan; None for ``privacy.unit=none``.

    Raises:
        ConfigError: for a plan that is incomplete, out of range, or not covered by the accountant.
    """
    if privacy.unit == "none":
        return None
    check_mechanism(privacy)
    check_cohort(privacy, federation)
    clip = privacy.max_grad_norm
    assert privacy.delta is not None and clip is not None  # checked
    use = exposure_of(privacy, np.asarray(sizes, dtype=np.int64), federation, exchanges)
    per_round, rounds = use.steps_per_round, use.rounds
    rate, interval = use.accounted()
    accountant = Accountant(privacy.accountant, privacy.delta, privacy.sampling, interval)
    noise = noise_of_clients(privacy, accountant, rate, rounds * per_round)
    mechanisms, row = np.unique(np.stack([noise, rate], axis=1), axis=0, return_inverse=True)
    row = row.reshape(-1)
    ends = _ends(privacy, accountant, mechanisms, use)
    check_affordable(privacy, accountant, mechanisms, ends[:, 0], rounds, per_round)
    curves = make_curves(accountant, per_round, np.concatenate([mechanisms, ends], axis=1), row)
    taken = ends[row, 0].astype(np.int64)
    plan = PrivacyPlan(
        unit=privacy.unit,
        accountant=accountant,
        max_grad_norm=clip,
        calibration=privacy.calibration,
        noise=privacy.noise,
        epsilon_target=privacy.epsilon_target,
        steps_per_round=per_round,
        covered=tuple(covered),
        examples=use.units,
        sample_rate=use.rate,
        accounted_rate=rate,
        expected_batch=use.batch,
        planned_rounds=taken,
        planned_steps=taken * per_round,
        noise_multiplier=noise,
        epsilon_planned=ends[row, 1],
        curves=curves,
        trials=float(privacy.trials),
        trial_distribution=privacy.trial_distribution,
        shared=shared if privacy.unit in _MERGED else (),
        clip=privacy.clip,
        clip_quantile=privacy.clip_quantile,
        clip_lr=privacy.clip_lr,
        count_noise=planned_count_noise(privacy, noise, use.batch),
        client_noise=privacy.client_noise,
        rows_per_unit=privacy.rows_per_unit,
        participation=use.participation,
    )
    claimed = max(float(plan.epsilon_planned.max()), plan.joint_epsilon(plan.planned_steps))
    plan = replace(plan, epsilon_claimed=claimed)
    return replace(plan, warnings=warnings_of(plan, federation, rounds))


def _ends(
    privacy: PrivacyConfig, accountant: Accountant, mechanisms: Floats, use: Exposure
) -> Floats:
    """(rounds, epsilon after them) of each mechanism (noise, rate) ``[mechanisms, 2]``."""
    target, both = privacy.epsilon_target, privacy.noise_multiplier is not None
    quick, steps = replace(accountant, name="rdp"), use.steps_per_round
    found = np.zeros_like(mechanisms)
    for i, (noise, rate) in enumerate(mechanisms.tolist()):
        if accountant.sampling == "poisson" and (target is None or not both):
            _refuse_endless("rdp", quick.epsilon([(noise, rate, use.rounds * steps)]), noise)
        count = use.rounds
        if target is not None and both:
            count = accountant.rounds_within(target, noise, rate, steps, use.rounds)
        end = accountant.stored([(noise, rate, count * steps)])
        _refuse_endless(accountant.name, end, noise)
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
