"""Targets of a data set, flat, and those of one micro-batch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from ffalora_cli.config.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """What the rows of a split should be answered with.

    Row ``i`` has targets ``offsets[i]`` to ``offsets[i + 1]``. Where ``offsets`` is None, every row
    has one, of weight 1.
    """

    values: np.ndarray  # [targets], int64 classes or fp32 numbers
    offsets: np.ndarray | None = None  # int64 [rows + 1]
    positions: np.ndarray | None = None  # int32 [targets], token whose output is read; None: 0
    weights: np.ndarray | None = None  # fp32 [targets], of the loss in its row's; None: 1

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    def check(self, lengths: np.ndarray, origin: str) -> None:
        """Refuse targets that no loss is made of.

        Args:
            lengths: tokens of each row, int [rows].
            origin: of the rows, for people.

        Raises:
            ConfigError: arrays that do not fit each other or the rows; the first row with a value
                or weight that cannot be, or a position without a token.
        """
        import numpy as np

        ends = np.arange(len(self.values) + 1) if self.offsets is None else self.offsets
        sizes = {len(array) for name, array in self.arrays().items() if name != "offsets"}
        fit = sizes == {len(self.values)} and len(ends) == len(lengths) + 1
        if not fit or ends[0] != 0 or ends[-1] != len(self.values) or (np.diff(ends) < 0).any():
            raise ConfigError(
                f"{origin}: {len(lengths)} rows and their targets do not fit each other; mend the "
                "targets of its task.kind"
            )
        owner = np.repeat(np.arange(len(lengths)), np.diff(ends))
        wrong = {"a value that is not finite": ~np.isfinite(self.values)}
        if self.weights is not None:
            fine = np.isfinite(self.weights) & (self.weights >= 0)
            wrong["a weight that is negative or not finite"] = ~fine
        if self.positions is not None:
            beyond = (self.positions < 0) | (self.positions >= lengths[owner])
            wrong["a target beyond its tokens (task.max_length cuts)"] = beyond
        for what, where in wrong.items():
            if where.any():
                raise ConfigError(
                    f"{origin}: row {owner[where.argmax()] + 1} has {what}, in {where.sum()} of "
                    f"{len(owner)} targets; mend or remove them"
                )

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array that is there, by its field."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: array for name, array in found.items() if array is not None}

    def index(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places in ``values`` of the targets of ``rows``, and whose they are, int64 [targets]."""
        import numpy as np

        rows = np.asarray(rows, dtype=np.int64)
        if self.offsets is None:
            return rows, np.arange(len(rows))
        counts = self.offsets[rows + 1] - self.offsets[rows]
        owner = np.repeat(np.arange(len(rows)), counts)
        first = self.offsets[rows] - (np.cumsum(counts) - counts)
        return first[owner] + np.arange(len(owner)), owner

    def take(self, rows: np.ndarray) -> Targets:
        """Targets of some rows, int64 [m]."""
        import numpy as np

        places, owner = self.index(rows)
        found = {name: array[places] for name, array in self.arrays().items() if name != "offsets"}
        if self.offsets is not None:
            found["offsets"] = np.r_[0, np.cumsum(np.bincount(owner, minlength=len(rows)))]
        return Targets(**found)

    def batch(self, rows: np.ndarray) -> BatchTargets:
        """Targets of a micro-batch's rows, int64 [examples], on the CPU."""
        import numpy as np
        import torch

        places, owner = self.index(rows)
        count = len(places)
        positions = np.zeros(count) if self.positions is None else self.positions[places]
        weights = np.ones(count) if self.weights is None else self.weights[places]
        return BatchTargets(
            torch.from_numpy(self.values[places]),
            torch.from_numpy(owner),
            torch.from_numpy(positions.astype(np.int64)),
            torch.from_numpy(weights.astype(np.float32)),
            len(rows),
        )


@dataclass(frozen=True)
class BatchTargets:
    """Targets of one micro-batch."""

    values: Tensor  # [targets]
    owner: Tensor  # int64 [targets], example of the micro-batch
    positions: Tensor  # int64 [targets], token of the example
    weights: Tensor  # fp32 [targets]
    examples: int

    def to(self, device: torch.device) -> BatchTargets:
        """The same on a device."""
        tensors = (self.values, self.owner, self.positions, self.weights)
        return BatchTargets(*(tensor.to(device) for tensor in tensors), self.examples)
