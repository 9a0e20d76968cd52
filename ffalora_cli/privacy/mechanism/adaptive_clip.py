"""Adaptive clipping: C follows a quantile of the gradient norms, and pays for looking at them.

In every local step a client releases, beside its noised sum, the noised count of the examples that
were not clipped; the server moves C towards the norm that a share ``quantile`` of the examples
stays below. Andrew, Thakkar, McMahan, Ramaswamy 2021 (arXiv 1905.03871), at example level: one
example moves the sum of ``unclipped - 1/2`` by 1/2, so gradient and count together are one
Gaussian mechanism with noise multiplier z when (their theorem 1)

    z^-2 = gradient_noise^-2 + (2 count_noise)^-2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import PrivacyConfig
from ffalora_cli.keys import Key, SecureKey, derive, numpy_generator, secure_normal

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = npt.NDArray[np.float64]

COUNT_SHARE = 20.0  # default count noise is the expected batch over this, as Andrew et al.


def count_noise_of(given: float | None, expected_batch: Floats) -> Floats:
    """Sd of the noise on each client's count ``[clients]``: as given, or expected batch / 20."""
    if given is None:
        return np.asarray(expected_batch, dtype=np.float64) / COUNT_SHARE
    return np.full(len(expected_batch), given, dtype=np.float64)


def planned_count_noise(privacy: PrivacyConfig, noise: Floats, batch: Floats) -> Floats | None:
    """``count_noise_of`` a plan, None without an adaptive clip; refused where it costs too much."""
    if privacy.clip_quantile is None:
        return None
    counts = count_noise_of(privacy.clip_count_noise, batch)
    gradient_noise(noise, counts)
    return counts


def gradient_noise(noise_multiplier: Floats, count_noise: Floats) -> Floats:
    """What is left for the gradient when the count is paid out of the same noise multiplier.

    Args:
        noise_multiplier: z of the joint mechanism ``[clients]``.
        count_noise: sd of the noise on the count ``[clients]``.

    Returns:
        Noise sd on the summed gradient in units of C ``[clients]``, above z.

    Raises:
        ConfigError: so little noise on the count that it alone would cost more than z allows.
    """
    left = noise_multiplier**-2.0 - (2.0 * count_noise) ** -2.0
    if (left <= 0).any():
        least, z = float(count_noise[left <= 0].min()), float(noise_multiplier.max())
        raise ConfigError(
            f"privacy.clip_count_noise={least:.3g} (null: batch/20) spends more than noise "
            f"multiplier {z:.3g} allows; set it above {z / 2:.3g}, e.g. "
            f"{math.ceil(z * 100) / 100:g}, or privacy.clip_quantile=null"
        )
    result: Floats = left**-0.5
    return result


def released_share(
    unclipped: npt.NDArray[np.int64],
    seen: npt.NDArray[np.int64],
    clients: Sequence[int] | npt.NDArray[np.int64],
    round: int,
    steps: int,
    expected_batch: Floats,
    count_noise: Floats,
    secret: Key,
) -> Floats:
    """Mean over a round's steps of every client's released share of unclipped examples.

    C does not change within a round, so the mean of the step releases ``(sum of (unclipped - 1/2)
    + noise) / expected batch + 1/2`` needs only the round's counts and every step's own noise.

    Args:
        unclipped: units whose gradient kept its norm, of the round ``[clients]``.
        seen: units drawn in the round ``[clients]``.
        clients: ids ``[clients]``.
        round: from 1.
        steps: local steps of the round.
        expected_batch: divisor, never the realised size ``[clients]``.
        count_noise: sd per step ``[clients]``.
        secret: run secret; the noise is keyed by (client, round, step).

    Returns:
        float64 ``[clients]``, unbiased, so not always within 0 and 1.
    """
    noise = [
        sum(
            _count_normal(derive(secret, "count noise", int(client), round, step))
            for step in range(steps)
        )
        for client in clients
    ]
    total = unclipped - 0.5 * seen + count_noise * np.asarray(noise, dtype=np.float64)
    result: Floats = total / (steps * expected_batch) + 0.5
    return result


def _count_normal(key: Key) -> float:
    if isinstance(key, SecureKey):
        return float(secure_normal(key))
    return float(numpy_generator(key).standard_normal())


def next_clip(clip: float, shares: Floats, quantile: float, lr: float) -> float:
    """C of the next round: ``C exp(-lr (share - quantile))``, in fp32 as it is sent.

    ``share`` is the mean over the clients (one at least), kept within 0 and 1 so that one round's
    noise cannot move C by more than a factor ``exp(lr)``.
    """
    share = min(1.0, max(0.0, float(np.mean(shares))))
    return float(np.float32(clip * math.exp(-lr * (share - quantile))))
