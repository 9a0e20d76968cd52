"""Combines uploads by rules that bound what a few bad clients can do to the global model.

Every rule is a function of the updates ``[clients, P]`` in float64. Only linear methods are
combined this way (for the others the mean of the uploads is not the result), and never under
client-level privacy, whose noise fits the sum of clipped updates and nothing else.

Median, trimmed mean, Krum and Multi-Krum count every client once; weights are read by
``norm_bound`` alone. All rules but the mean need all uploads of a round at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import Config
from ffalora_cli.types import Stack, Tensors

MOST_BYTES = 4 * 2**30  # of a round's updates in float64; a rule holds two or three such copies


def combine(
    rule: str, uploads: Stack, before: Tensors, weights: Tensor, assumed_bad: int
) -> Tensors:
    """Combine a round's uploads by a rule other than the mean.

    Args:
        rule: ``median``, ``trimmed_mean``, ``krum``, ``multi_krum`` or ``norm_bound``.
        uploads: ``[clients, ...]`` by name, finite, at least one client.
        before: the tensors the clients started from, by name.
        weights: float64 ``[clients]``, sum 1.
        assumed_bad: clients that may lie.

    Returns:
        New global tensors by name, in the dtype of the uploads.
    """
    shapes = {name: values.shape[1:] for name, values in uploads.items()}
    updates = torch.cat(
        [(values.double() - before[n].double()).flatten(1) for n, values in uploads.items()], 1
    )  # [clients, P]
    update = RULES[rule](updates, weights, assumed_bad)
    parts = update.split([shape.numel() for shape in shapes.values()])
    return {
        name: (before[name].double() + part.view(shape)).to(uploads[name].dtype)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def median(updates: Tensor) -> Tensor:
    """Coordinate-wise median ``[P]`` (Yin et al. 2018, arXiv 1803.01498, definition 1)."""
    return trimmed_mean(updates, len(updates))


def trimmed_mean(updates: Tensor, assumed_bad: int) -> Tensor:
    """Coordinate-wise mean ``[P]`` without the f largest and f smallest values (ibid., def. 2).

    f is lowered to (clients - 1) // 2, where one or two values are left: the median.
    """
    clients = len(updates)
    cut = min(assumed_bad, (clients - 1) // 2)
    return updates.sort(dim=0).values[cut : clients - cut].mean(dim=0)


def krum_scores(updates: Tensor, assumed_bad: int) -> Tensor:
    """Sum of squared distances to the n - f - 2 closest others, ``[clients]``.

    Blanchard et al. 2017, arXiv 1703.02757, section 4. What it promises needs n >= 2 f + 3; where
    fewer uploads are left, the closest other counts.
    """
    clients = len(updates)
    squares = updates.square().sum(dim=1)
    distances = squares[:, None] + squares[None, :] - 2 * updates @ updates.T  # [clients, clients]
    distances = distances.clamp(min=0).fill_diagonal_(torch.inf)
    closest = min(max(1, clients - assumed_bad - 2), clients - 1)
    return distances.sort(dim=1).values[:, :closest].sum(dim=1)


def krum(updates: Tensor, assumed_bad: int) -> Tensor:
    """The one update ``[P]`` that is closest to its neighbours."""
    return updates[krum_scores(updates, assumed_bad).argmin()]


def multi_krum(updates: Tensor, assumed_bad: int) -> Tensor:
    """Mean ``[P]`` of the n - f updates with the lowest Krum scores."""
    kept = max(1, len(updates) - assumed_bad)
    lowest = krum_scores(updates, assumed_bad).argsort(stable=True)[:kept]
    return updates[lowest.sort().values].mean(dim=0)


def norm_bound(updates: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean ``[P]`` of updates shortened to the (lower) median norm of the round.

    Norm thresholding of Sun et al. 2019, arXiv 1911.07963, section 4, with a bound read from the
    round instead of a fixed one: a client moves the model by at most its weight times the usual.
    """
    norms = updates.norm(dim=1)  # [clients]
    factors = (norms.median() / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1.0)
    return (weights * factors) @ updates


RULES: Mapping[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "median": lambda updates, weights, bad: median(updates),
    "trimmed_mean": lambda updates, weights, bad: trimmed_mean(updates, bad),
    "krum": lambda updates, weights, bad: krum(updates, bad),
    "multi_krum": lambda updates, weights, bad: multi_krum(updates, bad),
    "norm_bound": lambda updates, weights, bad: norm_bound(updates, weights),
}


def check_memory(rule: str, clients: int, parameters: int) -> None:
    """Refuse a cohort whose uploads do not fit in memory together.

    Args:
        rule: of the run; the mean is folded as uploads come and fits always.
        clients: the largest cohort.
        parameters: elements of one upload.

    Raises:
        ConfigError: with the largest cohort that fits.
    """
    fitting = MOST_BYTES // (8 * max(parameters, 1))
    if rule != "mean" and clients > fitting:
        raise ConfigError(
            f"federation.combination={rule} needs all {clients} uploads of a round at once "
            f"({clients * parameters * 8 / 2**30:.1f} GiB); set federation.cohort_size to at most "
            f"{fitting}, or federation.combination=mean"
        )


def combination_warnings(config: Config, num_clients: int) -> tuple[str, ...]:
    """What a valid choice of rule does not do, with so many clients."""
    federation, found = config.federation, []
    rule, clients = federation.combination, federation.cohort_size or num_clients
    if rule == "mean":
        return ()
    if clients < 5 and config.partition.name != "iid":
        found.append(
            f"with {clients} clients of skewed data honest updates differ as much as an attack "
            f"does, and federation.combination={rule} cannot tell them apart; what limits the "
            "damage: the finite check (always on), federation.max_upload_norm, norm_bound, median"
        )
    if federation.weights == "size" and rule != "norm_bound":
        found.append(
            f"federation.combination={rule} counts every client once; federation.weights=size has "
            "no effect on it"
        )
    return tuple(found)
