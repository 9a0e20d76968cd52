"""Which clients take part in a round: a function of key and round, nothing remembered."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ffalora_cli.config.errors import ConfigError, choose
from ffalora_cli.keys import Key, derive, numpy_generator

Scheme = Literal["full", "fixed", "poisson"]


def sample(
    key: Key | int | str,
    round: int,
    num_clients: int,
    cohort_size: int | None,
    scheme: Scheme,
    eligible: np.ndarray | None = None,
) -> np.ndarray:
    """Draw the cohort of a round.

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
