"""Targets of a data set, flat, and those of one micro-batch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from ffalora_cli.config.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


_OF_ROWS = ("offsets", "strata")  # fields that are no target's


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
    strata: np.ndarray | None = None  # int64 [rows], what rows are dealt by where no target says it

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
        sizes = {len(array) for name, array in self.arrays().items() if name not in _OF_ROWS}
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
        arrays = self.arrays().items()
        found = {name: array[places] for name, array in arrays if name not in _OF_ROWS}
        if self.offsets is not None:
            found["offsets"] = np.r_[0, np.cumsum(np.bincount(owner, minlength=len(rows)))]
        if self.strata is not None:
            found["strata"] = self.strata[rows]
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
class Scored:
    """What a model said to the targets of a split."""

    targets: Targets
    answers: np.ndarray  # [targets], as ``Task.answers`` gives them
    losses: np.ndarray  # float64 [targets], as ``Task.elementwise`` does

    def take(self, rows: np.ndarray) -> Scored:
        """Of some rows, int64 [m]."""
        places, _ = self.targets.index(rows)
        return Scored(self.targets.take(rows), self.answers[places], self.losses[places])

    def by_row(self) -> np.ndarray:
        """The loss of each row, float64 [rows]: the weighted sum over its targets."""
        import numpy as np

        rows = np.arange(len(self.targets))
        weights = 1.0 if self.targets.weights is None else self.targets.weights
        owner = self.targets.index(rows)[1]
        return np.bincount(owner, weights * self.losses, len(rows))


@dataclass(frozen=True)
class BatchTargets:
    """Targets of one micro-batch."""

    values: Tensor  # [targets]
    owner: Tensor  # int64 [targets], example of the micro-batch
    positions: Tensor  # int64 [targets], token of the example
    weights: Tensor  # fp32 [targets]
    examples: int

    def read(self, outputs: Tensor) -> Tensor:
        """Each target's outputs ``[targets, width]``.

        Args:
            outputs: ``[examples, tokens, width]``, or ``[examples, width]`` with a target each.
        """
        return outputs if outputs.dim() == 2 else outputs[self.owner, self.positions]

    def by_example(self, each: Tensor) -> Tensor:
        """The loss of each example ``[examples]``: the weighted sum of its ``[targets]``."""
        return each.new_zeros(self.examples).index_add(0, self.owner, self.weights * each)

    def to(self, device: torch.device) -> BatchTargets:
        """The same on a device."""
        tensors = (self.values, self.owner, self.positions, self.weights)
        return BatchTargets(*(tensor.to(device) for tensor in tensors), self.examples)
