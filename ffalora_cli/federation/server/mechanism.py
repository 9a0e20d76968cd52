"""Measures a round's uploads: what averaging two factors loses, how far clients are apart.

The mean of products is not the product of means (Sun et al., ICLR 2024, arXiv 2403.12313). All of
it follows from uploads and from the global tensors they began with: post-processing, where
uploads are released.

Products are never formed a client: ``mean(B_k A_k)`` is kept as two thin matrices, and a norm of
``L R`` is that of the triangular factors of L and of R^T.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ffalora_cli.metric_keys import (
    CLIENT_COSINE,
    CLIENT_DRIFT,
    GAP,
    NOISE_LINEAR,
    NOISE_PRODUCT,
    NOISE_RATIO,
    UPDATE_NORM,
    gap_of,
)
from ffalora_cli.types import Stack, Tensors

Pairs = Mapping[str, tuple[str, str]]
"""Site -> names of the two factors whose product is ``dW``, as ``left @ right``."""


@dataclass
class Mechanism:
    """Folds in the accepted uploads of one exchange, chunk by chunk, all in float64.

    Attributes:
        pairs: of the sites whose factors are common to all clients.
        before: global tensors the clients started from.
        names: uploaded tensors that are common to all clients.
    """

    pairs: Pairs
    before: Tensors
    names: Sequence[str]
    _mean: Tensors = field(default_factory=dict)  # sum of w_k u_k
    _units: Tensors = field(default_factory=dict)  # sum of u_k / |u_k|
    _products: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    _square: float = 0.0  # sum of w_k |u_k|^2
    _share: float = 0.0  # sum of w_k
    _moved: int = 0  # clients with u_k != 0

    def add(self, uploads: Stack, weights: np.ndarray) -> None:
        """Fold in a chunk.

        Args:
            uploads: ``[clients, ...]`` by name.
            weights: these clients' share of the cohort, float64 ``[clients]``.
        """
        share = torch.from_numpy(weights)
        changes = {n: uploads[n].double() - self.before[n].double() for n in self.names}
        squares = torch.stack([c.flatten(1).square().sum(1) for c in changes.values()]).sum(0)
        inverse = torch.where(squares > 0, squares.rsqrt(), 0.0)  # [clients]
        for name, change in changes.items():
            for total, factors in ((self._mean, share), (self._units, inverse)):
                part = torch.tensordot(factors, change, dims=1)
                total[name] = total[name] + part if name in total else part
        for site, (left, right) in self.pairs.items():
            if left in changes and right in changes:
                self._add_product(site, share[:, None, None] * changes[left], changes[right])
        self._square += float(share @ squares)
        self._share += float(share.sum())
        self._moved += int((squares > 0).sum())

    def _add_product(self, site: str, left: torch.Tensor, right: torch.Tensor) -> None:
        """Put the chunk's factors beside those so far, ``[m, inner]`` and ``[inner, n]``."""
        wide, tall = left.transpose(0, 1).flatten(1), right.flatten(0, 1)
        if site in self._products:
            known = self._products[site]
            wide, tall = torch.cat([known[0], wide], 1), torch.cat([known[1], tall])
        self._products[site] = narrowed(wide, tall)

    def sums(self) -> dict[str, float]:
        """Squares and sums from which ``ratios`` are made; those of several exchanges add up."""
        found: dict[str, float] = {}
        if not self._share:
            return found
        mean = {name: value / self._share for name, value in self._mean.items()}
        for site, (left, right) in self.pairs.items():
            b, a = self.before[left].double(), self.before[right].double()
            db, da = mean.get(left, torch.zeros_like(b)), mean.get(right, torch.zeros_like(a))
            wide, tall = self._products.get(site, (b[:, :0], a[:0]))
            wide = wide / self._share
            found[f"update {site}"] = product_square([wide, db, b], [tall, a, da])
            found[f"gap {site}"] = product_square([wide, -db], [tall, da]) if wide.numel() else 0.0
        if self._moved > 1:
            length = sum(float(value.square().sum()) for value in mean.values())
            found["mean"], found["spread"] = length, max(0.0, self._square / self._share - length)
            units = sum(float(value.square().sum()) for value in self._units.values())
            found["pairs"] = self._moved * (self._moved - 1)
            found["cosine"] = units - self._moved
        return found


def ratios(exchanges: Sequence[Mapping[str, float]], scale: float) -> dict[str, float]:
    """The metrics of a round; what has no meaning in it is left out.

    Args:
        exchanges: sums of each.
        scale: alpha / rank, for norms of ``dW``.
    """
    found: dict[str, float] = {}
    keys = dict.fromkeys(key for sums in exchanges for key in sums)
    sums = {key: sum(one.get(key, 0.0) for one in exchanges) for key in keys}
    updates = {key.removeprefix("update "): v for key, v in sums.items() if key[:7] == "update "}
    whole = sum(updates.values())
    if updates:
        found[UPDATE_NORM] = scale * math.sqrt(whole)
    if whole:
        found[GAP] = math.sqrt(sum(sums[f"gap {site}"] for site in updates) / whole)
        each = {site: (sums[f"gap {site}"], square) for site, square in updates.items() if square}
        found |= {gap_of(site): math.sqrt(gap / square) for site, (gap, square) in each.items()}
    for key, name in ((NOISE_PRODUCT, "product"), (NOISE_LINEAR, "linear")):
        if name in sums:
            found[key] = scale * math.sqrt(sums[name])
    if sums.get("linear"):
        found[NOISE_RATIO] = math.sqrt(sums["product"] / sums["linear"])
    if sums.get("mean"):
        found[CLIENT_DRIFT] = math.sqrt(sums["spread"] / sums["mean"])
    if sums.get("pairs"):
        found[CLIENT_COSINE] = sums["cosine"] / sums["pairs"]
    return found


def narrowed(left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors of the same product with an inner extent that no number of clients makes larger."""
    (m, inner), n = left.shape, right.shape[1]
    if inner <= min(m, n):
        return left, right
    product, one = left @ right, torch.eye(min(m, n), dtype=left.dtype)
    return (one, product) if m <= n else (product, one)


def product_square(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> float:
    """``|L R|_F^2`` of L ``[m, inner]`` and R ``[inner, n]``, each given in parts side by side.

    With ``L = Q_L T_L`` and ``R^T = Q_R T_R`` it is ``|T_L T_R^T|^2``: unlike Gram matrices, whose
    squares lose half of the digits, it is as exact as the product where terms cancel.
    """
    first = torch.linalg.qr(torch.cat(list(left), 1), mode="r").R
    second = torch.linalg.qr(torch.cat(list(right)).T, mode="r").R
    return float((first @ second.T).square().sum())
