"""Gathers a round's accepted uploads: into the mean as they come, or kept until all are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ffalora_cli.config.errors import RunFailed
from ffalora_cli.federation.server.mechanism import Mechanism
from ffalora_cli.federation.server.release import ClientRelease
from ffalora_cli.federation.server.robust import combine
from ffalora_cli.federation.server.server import MeanAccumulator
from ffalora_cli.federation.wire.contract import REASONS, Receipt
from ffalora_cli.types import Stack, Tensors


@dataclass
class Gathering:
    """What the server has of one exchange.

    Attributes:
        before: global tensors the clients started from.
        rule: ``federation.combination``.
        assumed_bad: ``federation.assumed_bad``.
        keep: whether the method needs every upload, too.
        release: the central mechanism under client-level privacy, else None.
        mechanism: measures the uploads that count, or None.
        total: zeros by name of what is uploaded, for a release of nothing.
    """

    before: Tensors
    rule: str
    assumed_bad: int
    keep: bool
    release: ClientRelease | None
    total: Tensors
    mechanism: Mechanism | None = None
    rejected: list[Mapping[str, Any]] = field(default_factory=list)
    _mean: MeanAccumulator = field(default_factory=MeanAccumulator)
    _kept: list[Stack] = field(default_factory=list)
    _weights: list[np.ndarray] = field(default_factory=list)
    _norms: list[np.ndarray] = field(default_factory=list)
    _ids: list[np.ndarray] = field(default_factory=list)
    _sent: int = 0

    def add(self, receipt: Receipt, ids: np.ndarray, weights: np.ndarray) -> None:
        """Fold in a chunk of the cohort; ``weights`` are its clients' shares of the cohort."""
        weights = weights[receipt.accepted]
        self._ids.append(ids[receipt.accepted])
        self._sent += len(receipt.accepted)
        self.rejected += receipt.rejected
        self._weights.append(weights)
        self._norms.append(receipt.norms)
        if self.mechanism is not None:
            self.mechanism.add(receipt.uploads, weights)
        if self.release is not None:
            self.total = self.release.add(self.total, self.before, receipt.uploads)
        elif self.rule == "mean":
            self._mean.add(receipt.uploads, weights)
        if self.keep or self.rule != "mean":
            self._kept.append(receipt.uploads)

    @property
    def accepted(self) -> int:
        """Uploads that count."""
        return sum(len(weights) for weights in self._weights)

    @property
    def clients(self) -> np.ndarray:
        """Ids of the clients whose uploads count."""
        return np.concatenate(self._ids) if self._ids else np.zeros(0, np.int64)

    @property
    def norms(self) -> np.ndarray:
        """Norms of the accepted updates, as the norm limit compares them."""
        return np.concatenate(self._norms) if self._norms else np.zeros(0)

    @property
    def weights(self) -> np.ndarray:
        """Shares of the accepted uploads, float64, sum 1."""
        weights = np.concatenate(self._weights) if self._weights else np.zeros(0)
        whole = self.accepted == self._sent  # then they add up to 1 already, but for a rounding
        return weights if whole or not weights.sum() else weights / weights.sum()

    @property
    def uploads(self) -> Stack | None:
        """All accepted uploads ``[accepted, ...]`` where they were kept."""
        if not self._kept:
            return None
        return {name: torch.cat([part[name] for part in self._kept]) for name in self._kept[0]}

    def check(self, round: int, min_clients: int) -> None:
        """End a run whose uploads are refused by so many that too few are left.

        Raises:
            RunFailed: naming the first clients and what was wrong with their uploads.
        """
        if not self.rejected or self.accepted >= min_clients:
            return
        named = [f"client {r['client']}: {REASONS[r['reason']]}" for r in self.rejected]
        shown = ", ".join(named[:2]) + (f" and {len(named) - 2} more" if len(named) > 2 else "")
        raise RunFailed(
            f"round {round}: {self.accepted} usable uploads, federation.min_clients={min_clients}: "
            f"{len(named)} were rejected ({shown})"
        )

    def combined(self, round: int) -> Tensors:
        """New global tensors before the server optimiser; empty where no upload counts.

        Under client-level privacy noise is released whatever came, over a fixed denominator.
        """
        if self.release is not None:
            return self.release.mean(round, self.total, self.before)
        share = sum(float(weights.sum()) for weights in self._weights)
        if not self.accepted or not share:
            return {}
        if self.rule == "mean":
            return self._mean.result(1.0 if self.accepted == self._sent else share)
        uploads = self.uploads
        assert uploads is not None
        weights = torch.from_numpy(self.weights)
        return combine(self.rule, uploads, self.before, weights, self.assumed_bad)
