"""Draws the clients that take part in a round, and tells whether there is a next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ffalora_cli.config.errors import ConfigError, choose
from ffalora_cli.federation.cohort import dropouts
from ffalora_cli.federation.setting import Setting
from ffalora_cli.keys import Key, derive, numpy_generator
from ffalora_cli.privacy.ledger import PrivacyLedger

Scheme = Literal["full", "fixed", "poisson"]


@dataclass(frozen=True)
class Cohort:
    """Who takes part in a round, in client order."""

    ids: np.ndarray  # int64 [cohort]
    late: np.ndarray  # bool [cohort], whose uploads come too late
    dropped: int  # asked, but did not answer


def is_last(setting: Setting, ledger: PrivacyLedger | None, round: int) -> bool:
    """Whether nothing follows a round: all are played, or nobody's budget affords another."""
    left = _eligible(setting, ledger, round + 1)
    return round >= setting.config.rounds or (left is not None and not left.any())


def invite(setting: Setting, ledger: PrivacyLedger | None, round: int) -> Cohort:
    """The cohort; a client whose planned participations are used up sits out."""
    config, seed = setting.config, setting.seed
    left, size = _eligible(setting, ledger, round), setting.config.cohort_size
    if left is not None and size is not None and config.cohort_sampling == "fixed":
        size = min(size, int(left.sum()))
    if size == 0:
        asked = np.zeros(0, np.int64)
    else:
        key = setting.secret if setting.plan is not None else seed
        clients = len(setting.clients)
        asked = sample(key, round, clients, size, config.cohort_sampling, left)
    asked = np.sort(asked)  # sums and micro-batches go in client order
    ids = asked[~dropouts.absent(seed, round, asked, config.dropout_rate)]
    late = dropouts.late(seed, round, ids, config.straggler_rate)
    return Cohort(ids, late, len(asked) - len(ids))


def _eligible(setting: Setting, ledger: PrivacyLedger | None, round: int) -> np.ndarray | None:
    """Who can still pay for this round, bool ``[num_clients]``; None without privacy."""
    if setting.plan is None or ledger is None:
        return None
    taken = ledger.steps_before(round)
    return taken <= setting.plan.planned_steps - setting.plan.steps_per_round


def sample(
    key: Key | int | str,
    round: int,
    num_clients: int,
    cohort_size: int | None,
    scheme: Scheme,
    eligible: np.ndarray | None = None,
) -> np.ndarray:
    """Draw the cohort of a round: a function of key and round, nothing is remembered.

    ``full`` is every eligible client (``cohort_size`` is not read). ``fixed`` draws exactly
    ``cohort_size`` of them without replacement. ``poisson`` takes each independently with
    probability ``cohort_size / num_clients``, the rate the accountant is told: the cohort varies
    and may be empty, and a client's chance does not depend on who else is eligible.

    Args:
        key: seed, or the run secret where the draw has to be unpredictable.
        round: from 1.
        num_clients: of the federation.
        cohort_size: exact (``fixed``) or expected (``poisson``) number of clients.
        scheme: see above.
        eligible: bool ``[num_clients]``; None = all.

    Returns:
        Sorted client ids, int64 ``[cohort]``.

    Raises:
        ConfigError: a cohort size that the scheme cannot draw.
    """
    mask = np.ones(num_clients, dtype=bool) if eligible is None else np.asarray(eligible, bool)
    ids = np.flatnonzero(mask).astype(np.int64)
    if scheme == "full":
        return ids
    if scheme not in ("fixed", "poisson"):
        raise choose("federation.cohort_sampling", scheme, ("full", "fixed", "poisson"))
    limit = len(ids) if scheme == "fixed" else num_clients
    if cohort_size is None or not 1 <= cohort_size <= limit:
        given = "null" if cohort_size is None else cohort_size
        raise ConfigError(
            f"federation.cohort_size={given} cannot be drawn by cohort_sampling={scheme} from "
            f"{limit} clients; set federation.cohort_size to 1 … {limit}, or "
            "federation.cohort_sampling=full"
        )
    generator = numpy_generator(derive(key, "cohort", round))
    if scheme == "fixed":
        return np.sort(generator.choice(ids, size=cohort_size, replace=False))
    included = generator.random(num_clients) < cohort_size / num_clients
    return ids[included[ids]]
