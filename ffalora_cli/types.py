"""The few values that travel between rooms. A leaf: imports nothing of ours, torch only for types.

Tensor names are ``<site>.<factor>`` for adapters (``...attention.self.query.lora_b``) and
``head.<parameter>`` for the classification head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ffalora_cli.tasks.targets import Targets

Tensors = dict[str, "torch.Tensor"]
"""Named tensors of one model (server side: no client axis)."""

Stack = dict[str, "torch.Tensor"]
"""Named tensors of a cohort; every tensor has a leading client axis ``[clients, ...]``."""

Kind = Literal["adapter", "head", "merge", "index", "seed", "setup", "framing"]
"""Ledger lines: what a counted byte was spent on."""

HEAD = "head"

TOKEN_BUCKET = 64
"""Rows of packed matrices are rounded up to a multiple of this (``models.packed`` says why)."""


class Examples(Protocol):
    """What engines and evaluation read of a data set (``data.encode.Encoded`` is one)."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int32 [rows]."""

    @property
    def targets(self) -> Targets:
        """What the rows should be answered with."""

    def inputs(self, rows: np.ndarray, pad_to: int | None = None) -> Tensors:
        """Right-padded model inputs ``[len(rows), width]``."""

    def packed(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Token ids and segment ids (or None) end to end, int64 [tokens]."""


@dataclass(frozen=True)
class Site:
    """One adapted linear layer: ``name`` is its module path in the backbone."""

    name: str
    d_in: int
    d_out: int


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and ledger kind of one tensor that may be trained or sent."""

    name: str
    shape: tuple[int, ...]
    kind: Literal["adapter", "head"]
    site: str  # module path, or "head"
    factor: str  # "lora_a", "lora_b", or the head parameter's own name

    @property
    def size(self) -> int:
        """Number of elements."""
        product = 1
        for extent in self.shape:
            product *= extent
        return product


@dataclass(frozen=True)
class Dense:
    """A dense tensor in a payload; ``values`` is ``[clients, ...]`` (one row a client)."""

    name: str
    kind: Kind
    values: torch.Tensor


@dataclass(frozen=True)
class Seed:
    """Eight bytes from which the receiver regenerates tensors that never changed."""

    name: str  # "adapter" or "head"
    seed: int


@dataclass(frozen=True)
class Tag:
    """Whose upload it is and of which round: eight bytes at the start of each client's body."""

    round: np.ndarray  # int64 [clients]
    client: np.ndarray  # int64 [clients]
    name: str = "upload"


@dataclass(frozen=True)
class LowRankMerge:
    """``W += scale * left @ right`` at one site, sent by its factors."""

    name: str  # "<site>@<round>"
    left: torch.Tensor  # [d_out, k]
    right: torch.Tensor  # [k, d_in]


@dataclass(frozen=True)
class DenseMerge:
    """The whole change of one site's base weight since the start, when cheaper than its factors."""

    name: str  # "<site>"
    values: torch.Tensor  # [d_out, d_in]


PayloadItem = Dense | Seed | Tag | LowRankMerge | DenseMerge


@dataclass(frozen=True)
class Merge:
    """What a server step adds to one site's frozen base weight: ``scale * left @ right``."""

    site: str
    left: torch.Tensor  # [d_out, k]
    right: torch.Tensor  # [k, d_in]
    round: int = 0  # filled in by the runner


@dataclass(frozen=True)
class ServerUpdate:
    """What a method's ``aggregate`` returns: new values of some tensors, and merges if any."""

    tensors: Tensors
    merges: tuple[Merge, ...] = ()


@dataclass(frozen=True)
class ServerState:
    """All the server knows after a round; with privacy ledger and client states, a checkpoint."""

    tensors: Tensors  # global values of every factor and head tensor
    versions: Mapping[str, int]  # round in which a tensor last changed; 0 = still as initialised
    round: int = 0
    optimizer: Tensors = field(default_factory=dict)  # server optimiser moments, "<slot>/<name>"
    merges: tuple[Merge, ...] = ()  # recent merges, oldest first, as long as a client may need them
    base_delta: Tensors = field(default_factory=dict)  # site -> dense change of W [d_out, d_in]
    max_grad_norm: float | None = None  # of the next round, once an adaptive clip has moved
    upload_norms: tuple[float, ...] = ()  # median update norm of recent rounds, oldest first


@dataclass(frozen=True)
class RoundRecord:
    """One line of ``rounds.jsonl``. ``metrics`` uses the keys of design section 6."""

    round: int
    metrics: Mapping[str, float]
    clients: tuple[Mapping[str, Any], ...] = ()
    rejected: tuple[Mapping[str, Any], ...] = ()  # uploads: {"client": id, "reason": code}
