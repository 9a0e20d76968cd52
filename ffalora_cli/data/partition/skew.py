"""Draws how many rows of each label go to which client, by the law of a partition."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import PartitionConfig
from ffalora_cli.keys import Key, derive, numpy_generator

# Label mix of each of three clients (rows) over the classes, as the FFA-LoRA paper lists them
# (Sun et al. 2024, arXiv:2403.12313, section 5.1; "mild" is not confirmed by a second source).
LABEL_MIXES: dict[tuple[str, int], tuple[tuple[float, ...], ...]] = {
    ("severe", 2): ((0.1, 0.9), (0.9, 0.1), (0.5, 0.5)),
    ("severe", 3): ((0.9, 0.05, 0.05), (0.05, 0.9, 0.05), (0.05, 0.05, 0.9)),
    ("mild", 2): ((0.15, 0.85), (0.85, 0.15), (0.5, 0.5)),
    ("mild", 3): ((0.6, 0.2, 0.2), (0.2, 0.6, 0.2), (0.2, 0.2, 0.6)),
}
FIRST_TRIES = 5  # after these, the chance that any further draw works can be judged


def even(rows: int, parts: int) -> np.ndarray:
    """Sizes of equal parts, the first ones larger by one where it does not divide, [parts]."""
    return rows // parts + (np.arange(parts) < rows % parts)


def dirichlet(
    config: PartitionConfig,
    class_counts: np.ndarray,
    num_clients: int,
    key: Key,
    dealt: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Split each class by its own Dirichlet draw over the clients (Hsu et al. 2019; NIID-Bench).

    With one class of all rows this is quantity skew. Draws are repeated, each with its own key,
    until the smallest client has ``config.min_client_size`` rows.

    Args:
        config: ``dirichlet_alpha`` (concentration), ``min_client_size``, ``max_tries``.
        class_counts: rows of each class, [classes].
        num_clients: K.
        key: of the draws.
        dealt: rows of each client [clients] when these counts are dealt; groups stay whole.

    Returns:
        Rows of each class at each client, int64 [classes, clients].

    Raises:
        ConfigError: no draw has clients large enough.
    """
    concentration = config.dirichlet_alpha
    assert concentration is not None  # checked
    best, tries, too_small = -1, 0, 0
    while tries < config.max_tries:
        generator = numpy_generator(derive(key, "draw", tries))
        counts = np.stack(
            [_cut(_log_gamma(generator, concentration, num_clients), n) for n in class_counts]
        )
        sizes = dealt(counts)
        tries += 1
        if sizes.min() >= config.min_client_size:
            return counts
        best = max(best, int(sizes.min()))
        too_small += int((sizes < config.min_client_size).sum())
        # With m small clients a draw on average, about exp(-m) of the draws have none.
        if tries == FIRST_TRIES and config.max_tries * math.exp(-too_small / tries) < 1e-6:
            break
    lower = f"partition.min_client_size={best}, " if best > 0 else ""
    raise ConfigError(
        f"partition.min_client_size={config.min_client_size} was not met in {tries} draws with "
        f"partition.dirichlet_alpha={concentration:g} and {num_clients} clients (best smallest "
        f"client: {max(best, 0)} rows); set {lower}a larger dirichlet_alpha, or fewer clients"
    )


def label_mix(config: PartitionConfig, class_counts: np.ndarray) -> np.ndarray:
    """The paper's mixes as a partition: client k gets the share p_kc / sum_j p_jc of class c.

    Read as shares of a class, the rows of the severe two-class mix would hand out 1.5 times the
    data; normalised by column, every row is used once.

    Returns:
        Rows of each class at each client, int64 [classes, 3].
    """
    mix = LABEL_MIXES[config.label_mix or "", len(class_counts)]
    shares = np.array(mix).T  # [classes, clients]
    return np.stack([_cut(np.log(p), n) for p, n in zip(shares, class_counts, strict=True)])


def shards(
    config: PartitionConfig, class_counts: np.ndarray, num_clients: int, key: Key
) -> tuple[np.ndarray, np.ndarray]:
    """Sort by label, cut into equal shards, deal each client the same number (McMahan et al. 2017).

    Args:
        config: ``shards_per_client``.
        class_counts: rows of each class, [classes].
        num_clients: K.
        key: of the draw.

    Returns:
        Rows of each class in each shard, int64 [classes, shards]; client of each shard [shards].

    Raises:
        ConfigError: more shards than rows.
    """
    each, rows = config.shards_per_client, int(class_counts.sum())
    assert each is not None  # checked
    total = each * num_clients
    if total > rows:
        raise ConfigError(
            f"partition.shards_per_client={each} makes {total} shards of {rows} training "
            f"rows; set at most {rows // num_clients}"
        )
    clients = numpy_generator(derive(key, "shards")).permutation(total) // each
    ends = np.cumsum(even(rows, total))  # of the shards, on the line of all rows by label
    starts = np.cumsum(class_counts) - class_counts
    inside = [np.clip(ends - at, 0, n) for at, n in zip(starts, class_counts, strict=True)]
    return np.diff(np.stack(inside), axis=1, prepend=0), clients


def _log_gamma(generator: np.random.Generator, shape: float, size: int) -> np.ndarray:
    """Logarithms of Gamma(shape) draws, [size]; plain draws underflow to 0 for a small shape.

    Gamma(a) has the law of Gamma(a + 1) * U^(1/a) with U uniform (Marsaglia and Tsang 2000).
    """
    return np.log(generator.standard_gamma(shape + 1, size)) - (
        generator.standard_exponential(size) / shape
    )


def _cut(log_weights: np.ndarray, rows: int) -> np.ndarray:
    """Cut ``rows`` in proportion to the weights, at rounded cumulative shares, int64 [clients]."""
    cumulative = np.cumsum(np.exp(log_weights - log_weights.max()))
    ends = np.rint(cumulative / cumulative[-1] * rows).astype(np.int64)
    return np.diff(ends, prepend=0)
