"""How often the units of each client are drawn: one function a kind of unit, read by the plan."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import FederationConfig, PrivacyConfig
from ffalora_cli.privacy.accounting.accountants import FINE
from ffalora_cli.types import Floats, Ints

MOST_RATES = 50  # distinct sampling rates planned exactly; beyond, rates go up on a 1 % grid
GRID = 5e-4  # width of the grid of privacy losses then: five times quicker, at most 0.3 % above


@dataclass(frozen=True)
class Participation:
    """How often a client may take part, and how likely it is drawn more often."""

    rounds: int  # of the run
    share: float  # probability of being drawn in one
    planned: int  # rounds; drawn once more, a client sits out
    quantile: float | None  # asked for; None: mean + 4 sd
    beyond: float  # probability of being drawn more often (binomial)

    @staticmethod
    def of(rounds: int, share: float, quantile: float | None) -> Participation:
        """The plan of one client."""
        planned = planned_rounds(rounds, share, quantile)
        if planned >= rounds:
            return Participation(rounds, share, rounds, quantile, 0.0)
        from scipy.stats import binom

        beyond = float(binom.sf(planned, rounds, share))
        return Participation(rounds, share, planned, quantile, beyond)


@dataclass(frozen=True, eq=False)
class Exposure:
    """Arrays are ``[num_clients]``."""

    units: Ints  # that the rate is a share of
    batch: Floats  # expected, the denominator of a released mean
    rate: Floats  # with which a unit is drawn in a step
    steps_per_round: int  # that a client is charged for
    rounds: int  # that a client may take part in as far as participation goes
    participation: Participation | None = None  # None: a client pays for every round, drawn or not

    def accounted(self) -> tuple[Floats, float]:
        """Rates to account for, and the width of the grid of privacy losses.

        The real rates on the fine grid; when there are many, rates rounded up to powers of 1.01.
        Epsilon grows with the rate, so that is a valid (slightly larger) bound.
        """
        if len(np.unique(self.rate)) <= MOST_RATES:
            return self.rate, FINE
        up: Floats = 1.01 ** np.ceil(np.log(self.rate) / math.log(1.01))
        return np.minimum(1.0, np.maximum(self.rate, up)), GRID


def exposure_of(
    privacy: PrivacyConfig, sizes: Ints, federation: FederationConfig, exchanges: int = 1
) -> Exposure:
    """Of units of the configured kind.

    Args:
        privacy: unit, and where the noise is added.
        sizes: int64 [num_clients], units of each client.
        federation: participation, rounds, local steps and batch.
        exchanges: of a round: as often a client releases its local steps, or the server its sum.

    Raises:
        ConfigError: one drawn cohort would be released more than once.
    """
    if privacy.unit == "client":
        return _of_clients(privacy, len(sizes), federation, exchanges)
    return _inside_clients(privacy, sizes, federation, exchanges)


def planned_rounds(rounds: int, share: float, quantile: float | None = None) -> int:
    """Upper plan of the rounds that one client takes part in; drawn more often, it sits out.

    The K local steps of a round share one coin, so participation does not amplify per step; the
    plan bounds the count and the runner keeps to it.

    Args:
        rounds: of the run.
        share: probability with which a client is drawn in one, independently of the others.
        quantile: the least number that a client stays within with this probability (binomial);
            None: mean + 4 sd, at most all of them.
    """
    if share >= 1.0:
        return rounds
    if quantile is not None:
        from scipy.stats import binom

        return max(1, int(binom.ppf(quantile, rounds, share)))
    spread = 4.0 * math.sqrt(rounds * share * (1.0 - share))
    return min(rounds, math.ceil(share * rounds + spread))


def _participation(federation: FederationConfig, num_clients: int) -> float:
    """Probability that a client takes part in a round."""
    if federation.cohort_sampling == "full" or federation.cohort_size is None:
        return 1.0
    return min(1.0, federation.cohort_size / num_clients)


def _inside_clients(
    privacy: PrivacyConfig, sizes: Ints, federation: FederationConfig, exchanges: int
) -> Exposure:
    """A step is a local step on a client's own units."""
    batch = np.minimum(federation.local_batch_size, sizes).astype(np.float64)
    share = _participation(federation, len(sizes))
    often = Participation.of(federation.rounds, share, privacy.participation_quantile)
    steps = federation.local_steps * exchanges
    return Exposure(sizes, batch, batch / sizes, steps, often.planned, often)


def _of_clients(
    privacy: PrivacyConfig, clients: int, federation: FederationConfig, exchanges: int
) -> Exposure:
    """A step is a round: with central noise whether or not the client was drawn."""
    share = _participation(federation, clients)
    units, ones = np.full(clients, clients, dtype=np.int64), np.ones(clients)
    if privacy.client_noise == "local":  # the server sees who uploads: no amplification
        often = Participation.of(federation.rounds, share, privacy.participation_quantile)
        return Exposure(units, ones, ones, exchanges, often.planned, often)
    if exchanges > 1 and share < 1:
        raise ConfigError(
            f"privacy.unit=client: the method's {exchanges} exchanges of a round release sums of "
            "one drawn cohort, which is not amplified twice; set federation.cohort_sampling=full "
            "federation.cohort_size=null, or privacy.client_noise=local"
        )
    return Exposure(units, share * clients * ones, share * ones, exchanges, federation.rounds)
