"""Turns a round's uploads into the next state: weights, mean, server optimiser, merges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from ffalora_cli.config.errors import ConfigError, RunFailed, choose
from ffalora_cli.config.schema import ServerOptimizerConfig
from ffalora_cli.types import Merge, ServerState, ServerUpdate, Stack, Tensors, kind_of


def client_weights(sizes: np.ndarray, scheme: str) -> np.ndarray:
    """Aggregation weights of a cohort.

    Args:
        sizes: examples of each client, int64 ``[clients]``.
        scheme: ``size`` (proportional to examples) or ``uniform``.

    Returns:
        float64 ``[clients]``, sum 1 (empty for an empty cohort).

    Raises:
        ConfigError: weights by size where the cohort holds no example.
    """
    sizes = np.asarray(sizes, dtype=np.float64)
    if scheme not in ("size", "uniform"):
        raise choose("federation.weights", scheme, ("size", "uniform"))
    shares = sizes if scheme == "size" else np.ones_like(sizes)
    if len(sizes) and shares.sum() <= 0:
        raise ConfigError(
            "federation.weights=size has no weights for a cohort without examples; set "
            "federation.weights=uniform or give every client data (partition.min_client_size=1)"
        )
    return shares / shares.sum() if len(sizes) else shares


class MeanAccumulator:
    """Weighted sum of uploads that arrive in chunks, in client order.

    Sums are float64, so that the result in the uploads' own dtype does not depend on how a cohort
    was cut into chunks, beyond one rounding.
    """

    def __init__(self) -> None:
        self._sums: Tensors = {}
        self._dtypes: dict[str, torch.dtype] = {}

    def add(self, uploads: Stack, weights: np.ndarray) -> None:
        """Fold in a chunk.

        Args:
            uploads: ``[clients, ...]`` by name; the same names in every chunk.
            weights: these clients' share of the whole cohort, float64 ``[clients]``.
        """
        if self._sums and self._sums.keys() != uploads.keys():
            raise ValueError("chunks of one cohort upload different tensors")
        for name, values in uploads.items():
            share = torch.as_tensor(weights, dtype=torch.float64)
            part = torch.tensordot(share, values.double(), dims=1)
            self._sums[name] = self._sums[name] + part if name in self._sums else part
            self._dtypes[name] = values.dtype

    def result(self, share: float = 1.0) -> Tensors:
        """The sum by name, in the dtype of the uploads; empty if nothing was added.

        Args:
            share: of the cohort's weight that arrived; the sum is divided by it.
        """
        return {name: (total / share).to(self._dtypes[name]) for name, total in self._sums.items()}


def server_step(
    config: ServerOptimizerConfig, state: ServerState, mean: Tensors
) -> tuple[Tensors, Tensors]:
    """One server optimiser step on the pseudo-gradient ``mean - current``.

    ``sgd`` is FedAvgM (Hsu et al. 2019, arXiv 1909.06335): ``m = momentum m + d``, ``x += lr m``.
    ``adam``, ``yogi`` and ``adagrad`` are Algorithm 2 of Reddi et al. 2021 (arXiv 2003.00295)
    with ``beta1 = momentum``, ``v = tau^2`` at the start, and no bias correction.

    Args:
        config: name, lr, momentum, beta2, tau.
        state: all current values, and moments (slots ``momentum/<name>``, ``second/<name>``).
        mean: weighted mean of the uploads, by name.

    Returns:
        New values of the tensors in ``mean`` (``mean`` itself, bit for bit, for sgd with lr 1
        without momentum) and all moments; those of tensors not uploaded are kept as they are.
    """
    optimizer = dict(state.optimizer)
    if config.name == "sgd" and config.lr == 1.0 and config.momentum == 0.0:
        return dict(mean), optimizer
    stepped: Tensors = {}
    for name, value in mean.items():
        current = state.tensors[name]
        gradient = value - current
        first = optimizer.get(f"momentum/{name}", torch.zeros_like(gradient))
        if config.name == "sgd":
            first = config.momentum * first + gradient
            stepped[name] = current + config.lr * first
        else:
            start = torch.full_like(gradient, config.tau**2)
            second = optimizer.get(f"second/{name}", start)
            first = config.momentum * first + (1 - config.momentum) * gradient
            second = _second_moment(config, second, gradient.square())
            stepped[name] = current + config.lr * first / (second.sqrt() + config.tau)
            optimizer[f"second/{name}"] = second
        optimizer[f"momentum/{name}"] = first
    return stepped, optimizer


def _second_moment(
    config: ServerOptimizerConfig, second: torch.Tensor, square: torch.Tensor
) -> torch.Tensor:
    """The second-moment estimate after a squared pseudo-gradient."""
    if config.name == "adagrad":
        return second + square
    if config.name == "adam":
        return config.beta2 * second + (1 - config.beta2) * square
    if config.name == "yogi":
        return second - (1 - config.beta2) * square * torch.sign(second - square)
    raise choose(
        "federation.server_optimizer.name", config.name, ("sgd", "adam", "yogi", "adagrad")
    )


def apply_update(
    state: ServerState, update: ServerUpdate, number: int, scale: float, optimizer: Tensors
) -> ServerState:
    """The state after an exchange; the old one is left as it was.

    Args:
        state: before the exchange.
        update: what the method's ``aggregate`` returned.
        number: of the exchange; becomes the version of every tensor that ``update`` changes.
        scale: ``alpha / rank``; a merge adds ``scale * left @ right`` to its site.
        optimizer: moments from ``server_step``.
    """
    merges = tuple(replace(merge, exchange=number) for merge in update.merges)
    drawn = [
        name
        for name in state.versions
        if kind_of(name) == "adapter" and name.rpartition(".")[2] in update.seeds
    ]
    kept = {name: value for name, value in state.tensors.items() if name not in drawn}
    return replace(
        state,
        tensors={**kept, **update.tensors},
        versions={**state.versions, **dict.fromkeys((*drawn, *update.tensors), number)},
        seeds={**state.seeds, **update.seeds},
        optimizer=optimizer,
        merges=_needed(state.merges + merges),
        base_delta=_add_merges(state.base_delta, merges, scale),
    )


def check_finite(state: ServerState, update: ServerUpdate, round: int) -> None:
    """Refuse a state in which what ``update`` changed, or hands to a client, is not finite.

    Raises:
        RunFailed: with the first such tensor.
    """
    changed = {name: state.tensors[name] for name in update.tensors}
    changed |= {merge.site: state.base_delta[merge.site] for merge in update.merges}
    changed |= update.own
    for name, value in changed.items():
        if not bool(torch.isfinite(value).all()):
            raise RunFailed(
                f"round {round}: {name} of the combined model is not finite; the model of "
                f"round {round - 1} is kept"
            )


def _add_merges(
    delta: Mapping[str, torch.Tensor], merges: tuple[Merge, ...], scale: float
) -> Tensors:
    """Dense change of the base weights after ``merges``, at least float32."""
    changed = dict(delta)
    for merge in merges:
        dtype = torch.promote_types(merge.left.dtype, torch.float32)
        change = scale * (merge.left.to(dtype) @ merge.right.to(dtype))
        changed[merge.site] = changed[merge.site] + change if merge.site in changed else change
    return changed


def _needed(merges: tuple[Merge, ...]) -> tuple[Merge, ...]:
    """Merges some client may be sent; the oldest first.

    A client is sent a site's last m merges, or the dense change if that is cheaper. Going back in
    time, the first merge that makes the dense change cheaper is kept (it tells the downlink that
    it is), and everything older is never sent again.
    """
    spent: dict[str, int] = {}
    kept: list[Merge] = []
    for merge in reversed(merges):
        dense = merge.left.shape[0] * merge.right.shape[1]
        if spent.get(merge.site, 0) <= dense:
            kept.append(merge)
        spent[merge.site] = spent.get(merge.site, 0) + merge.left.numel() + merge.right.numel()
    return tuple(reversed(kept))
