"""The few values that travel between rooms. A leaf: imports nothing of ours, torch only for types.

Tensor names are ``<site>.<factor>`` for adapters, whose form names the factors, and
``head.<parameter>`` for the classification head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from ffalora_cli.tasks.targets import Targets

Tensors = dict[str, "torch.Tensor"]
"""Named tensors of one model (server side: no client axis)."""

Stack = dict[str, "torch.Tensor"]
"""Named tensors of a cohort; every tensor has a leading client axis ``[clients, ...]``."""

Floats: TypeAlias = "npt.NDArray[np.float64]"
Ints: TypeAlias = "npt.NDArray[np.int64]"

Kind = Literal["adapter", "head", "merge", "index", "seed", "setup", "framing"]
"""Ledger lines: what a counted byte was spent on."""

HEAD = "head"


def kind_of(name: str) -> Literal["adapter", "head"]:
    """Ledger kind of a tensor, by its name."""
    return "head" if name.startswith(f"{HEAD}.") else "adapter"


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
    factor: str  # the form's name for it, or the head parameter's own

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

    def dense(self) -> torch.Tensor:
        """The tensors ``[clients, ...]``."""
        return self.values


@dataclass(frozen=True)
class Rows:
    """Some slices of a tensor along one axis, as many for every client; the others are zero."""

    name: str
    kind: Kind
    values: torch.Tensor  # [clients, ...] with ``kept`` slices along ``axis``
    index: torch.Tensor  # int64 [clients, kept], which ones, ascending
    shape: tuple[int, ...]  # of one client's whole tensor
    axis: int = 0  # of ``shape``

    def dense(self) -> torch.Tensor:
        """The tensors ``[clients, *shape]``."""
        whole = self.values.new_zeros(len(self.values), *self.shape)
        sizes = [-1 if at == self.axis + 1 else 1 for at in range(1, whole.dim())]
        index = self.index.view(len(whole), *sizes).expand(self.values.shape)
        return whole.scatter(self.axis + 1, index, self.values)


@dataclass(frozen=True)
class Sparse:
    """Some elements of a tensor, as many for every client; the others are zero."""

    name: str
    kind: Kind
    values: torch.Tensor  # [clients, kept]
    index: torch.Tensor  # int64 [clients, kept], places in the flattened tensor, ascending
    shape: tuple[int, ...]  # of one client's whole tensor

    def dense(self) -> torch.Tensor:
        """The tensors ``[clients, *shape]``."""
        whole = self.values.new_zeros(len(self.values), *self.shape)
        return whole.flatten(1).scatter(1, self.index, self.values).view_as(whole)


@dataclass(frozen=True)
class Bits:
    """A tensor quantised to ``2 ** width`` even steps from ``-scale`` to ``scale``.

    One bit is a sign: 0 stands for ``-scale``, 1 for ``scale``.
    """

    name: str
    kind: Kind
    codes: torch.Tensor  # uint8 [clients, ...], from 0 to 2 ** width - 1
    scale: torch.Tensor  # float32 [clients]
    width: int = 1  # bits an element, at most 8

    def dense(self) -> torch.Tensor:
        """The quantised tensors ``[clients, ...]``."""
        top = 2**self.width - 1
        steps = (2.0 * self.codes - top) / top  # from -1 to 1
        return steps * self.scale.view(-1, *[1] * (steps.dim() - 1))


@dataclass(frozen=True)
class Scalars:
    """A few numbers, in float32 whatever the wire's dtype."""

    name: str
    kind: Kind
    values: torch.Tensor  # [clients, numbers]


@dataclass(frozen=True)
class Seed:
    """Eight bytes from which the receiver generates tensors: as they began, or drawn anew."""

    name: str  # "adapter" or "head"; of a factor drawn anew its own
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

    name: str  # "<site>@<exchange>"
    left: torch.Tensor  # [d_out, k]
    right: torch.Tensor  # [k, d_in]


@dataclass(frozen=True)
class DenseMerge:
    """The whole change of one site's base weight since the start, when cheaper than its factors."""

    name: str  # "<site>"
    values: torch.Tensor  # [d_out, d_in]


PayloadItem = Dense | Rows | Sparse | Bits | Scalars | Seed | Tag | LowRankMerge | DenseMerge


@dataclass(frozen=True)
class Merge:
    """What a server step adds to one site's frozen base weight: ``scale * left @ right``."""

    site: str
    left: torch.Tensor  # [d_out, k]
    right: torch.Tensor  # [k, d_in]
    exchange: int = 0  # number of the exchange that made it; filled in by the runner


@dataclass(frozen=True)
class ServerUpdate:
    """What a method's ``aggregate`` returns.

    Attributes:
        tensors: new values of the global tensors that changed, uploaded or not.
        merges: into the frozen base weights.
        seeds: of factors drawn anew at every site, as ``adapter.init`` draws them.
        own: new personal tensors of the clients whose uploads were combined, ``[clients, ...]`` in
            the order of the uploads; each client is handed its own at once.
    """

    tensors: Tensors
    merges: tuple[Merge, ...] = ()
    seeds: Mapping[str, int] = field(default_factory=dict)
    own: Stack = field(default_factory=dict)


@dataclass(frozen=True)
class ServerState:
    """All the server knows after a round; with privacy ledger and client states, a checkpoint."""

    tensors: Tensors  # global values of what no seed stands for: changed, and not drawn anew
    versions: Mapping[str, int]  # all tensors: exchange that last changed it; 0 = as initialised
    round: int = 0
    seeds: Mapping[str, int] = field(default_factory=dict)  # of factors drawn anew
    optimizer: Tensors = field(default_factory=dict)  # server optimiser moments, "<slot>/<name>"
    merges: tuple[Merge, ...] = ()  # recent merges, oldest first, as long as a client may need them
    base_delta: Tensors = field(default_factory=dict)  # site -> dense change of W [d_out, d_in]
    max_grad_norm: float | None = None  # of the next round, once an adaptive clip has moved
    upload_norms: tuple[float, ...] = ()  # median update norm of recent rounds, oldest first
    max_tokens: int | None = None  # of a micro-batch, once memory has run out with more


@dataclass(frozen=True)
class RoundRecord:
    """One line of ``rounds.jsonl``. ``metrics``: ``eval/accuracy``, ``train/loss``, ..."""

    round: int
    metrics: Mapping[str, float]
    clients: tuple[Mapping[str, Any], ...] = ()
    rejected: tuple[Mapping[str, Any], ...] = ()  # uploads: {"client": id, "reason": code}
