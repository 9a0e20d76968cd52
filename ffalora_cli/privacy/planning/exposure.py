"""How often the units of each client are drawn: one function a kind of unit, read by the plan."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import FederationConfig, PrivacyConfig
from ffalora_cli.privacy.accounting.accountants import FINE
from ffalora_cli.privacy.planning.rules import participation
from ffalora_cli.privacy.planning.schedule import planned_rounds

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MOST_RATES = 50  # distinct sampling rates planned exactly; beyond, rates go up on a 1 % grid
GRID = 5e-4  # width of the grid of privacy losses then: five times quicker, at most 0.3 % above


@dataclass(frozen=True, eq=False)
class Exposure:
    """Arrays are ``[num_clients]``.

    Attributes:
        units: that the rate is a share of.
        batch: expected, the denominator of a released mean.
        rate: with which a unit is drawn in a step.
        steps_per_round: that a client is charged for.
        rounds: that a client may take part in as far as participation goes.
    """

    units: Ints
    batch: Floats
    rate: Floats
    steps_per_round: int
    rounds: int

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
    return _inside_clients(sizes, federation, exchanges)


def _inside_clients(sizes: Ints, federation: FederationConfig, exchanges: int) -> Exposure:
    """A step is a local step on a client's own units."""
    batch = np.minimum(federation.local_batch_size, sizes).astype(np.float64)
    rounds = planned_rounds(federation.rounds, participation(federation, len(sizes)))
    return Exposure(sizes, batch, batch / sizes, federation.local_steps * exchanges, rounds)


def _of_clients(
    privacy: PrivacyConfig, clients: int, federation: FederationConfig, exchanges: int
) -> Exposure:
    """A step is a round: with central noise whether or not the client was drawn."""
    share = participation(federation, clients)
    units, ones = np.full(clients, clients, dtype=np.int64), np.ones(clients)
    if privacy.client_noise == "local":  # the server sees who uploads: no amplification
        return Exposure(units, ones, ones, exchanges, planned_rounds(federation.rounds, share))
    if exchanges > 1 and share < 1:
        raise ConfigError(
            f"privacy.unit=client: the method's {exchanges} exchanges of a round release sums of "
            "one drawn cohort, which is not amplified twice; set federation.cohort_sampling=full "
            "federation.cohort_size=null, or privacy.client_noise=local"
        )
    return Exposure(units, share * clients * ones, share * ones, exchanges, federation.rounds)
