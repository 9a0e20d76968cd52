"""Checks before training that an example's gradient is its own, whatever is beside it.

The reference engine: Opacus reads an example's gradient off the first axis of what goes into and
comes out of a layer. A layer that is called once for all examples (DeBERTa projects its table of
relative positions with batch 1) puts everybody's gradient on one of them: its clip holds, and the
others move it by more than C. No list of families would be complete, so a few short rows decide:
what they have in a batch against what each has alone, by a backward pass without any hook.

Dropout of the frozen model, in both engines: a row's loss in a batch against its loss alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ffalora_cli import keys
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.engine.gradients import MicroBatch
from ffalora_cli.engine.job import ExamplePrivacy, LocalJob, LocalOptimizer
from ffalora_cli.engine.model_dropout import ModelDropout
from ffalora_cli.engine.reference import ReferenceEngine
from ffalora_cli.models.network import Network
from ffalora_cli.tasks.targets import Targets
from ffalora_cli.types import Examples, Stack, Tensors

ROWS, TOKENS = 3, 8  # seconds for the largest encoder on one core
SPREAD = 0.02  # of the factors: at B = 0 A would have no gradient to compare
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}  # relative, by dtype of the frozen weights


@dataclass(frozen=True)
class _FirstTokens:
    """The first tokens of some rows of a data set, as a data set."""

    whole: Examples
    rows: np.ndarray  # int64 [rows]

    @property
    def lengths(self) -> np.ndarray:
        return np.minimum(np.asarray(self.whole.lengths)[self.rows], TOKENS)

    @property
    def targets(self) -> Targets:
        """Where single tokens are scored, of all that are left: an answer may begin behind them."""
        found = self.whole.targets.take(self.rows)
        if found.positions is None:
            return found
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        return Targets(
            np.resize(found.values, ends[-1]),
            ends,
            (np.arange(ends[-1]) - np.repeat(ends[:-1], self.lengths)).astype(np.int32),
            np.repeat(1.0 / self.lengths, self.lengths).astype(np.float32),
        )

    def inputs(self, rows: np.ndarray, pad_to: int | None = None) -> Tensors:
        width = pad_to or int(self.lengths[rows].max())
        whole = self.whole.inputs(self.rows[rows])
        return {n: t[:, :width] if t.dim() == 2 else t for n, t in whole.items()}

    def packed(self, rows: np.ndarray) -> tuple[Tensor, Tensor | None]:
        inputs = self.inputs(rows)
        real, types = inputs["attention_mask"].bool(), inputs.get("token_type_ids")
        return inputs["input_ids"][real], None if types is None else types[real]


def check_per_example_gradients(
    network: Network, examples: Examples, covered: Sequence[str]
) -> None:
    """Compare per-example gradients of two and of three rows with a loop over single rows.

    Without privacy nothing is claimed of single examples, and their sum is right: no need to ask.

    Args:
        network: of the run.
        examples: its training set; the shortest rows are taken.
        covered: names of all that is ever trained.

    Raises:
        ConfigError: they differ, by more than rounding.
    """
    shortest = np.argsort(np.asarray(examples.lengths), kind="stable")[:ROWS]
    engine = ReferenceEngine(network, _FirstTokens(examples, shortest))
    job, rows = _job(network, covered), np.arange(len(shortest))
    plain = replace(job, privacy=None)
    loop = [engine.gradients(plain, rows[i : i + 1]) for i in rows]
    limit = TOLERANCE[next(network.model.parameters()).dtype]
    for count in range(2, len(rows) + 1):
        found = engine.gradients(job, rows[:count])
        alone = {name: torch.cat([one[name] for one in loop[:count]]) for name in found}
        off = _difference(found, alone)
        if not off <= limit:
            raise ConfigError(
                "engine.name=reference: with this model the gradient of an example changes with "
                f"the rows beside it (a tensor's by {100 * off:.0f} % of its norm), so no epsilon "
                "would hold; use engine=stacked"
            )


def check_model_dropout(network: Network, examples: Examples, rate: float | Literal["own"]) -> None:
    """Compare losses of a few rows together with each row's alone, under the same keys.

    Args:
        network: of the run.
        examples: its training set; the shortest rows are taken.
        rate: ``model.dropout``.

    Raises:
        ConfigError: a row's loss depends on the rows beside it, or nothing is ever dropped.
    """
    shortest = np.argsort(np.asarray(examples.lengths), kind="stable")[:ROWS]
    few = _FirstTokens(examples, shortest)
    order = np.argsort(-few.lengths, kind="stable")
    together = _losses(network, few, order, rate)
    if network.context.dropped == 0:
        raise ConfigError(
            f"model.dropout={rate}: this model drops nothing by its own config; give a rate, as in "
            "model.dropout=0.1, or model.dropout=null"
        )
    alone = torch.cat([_losses(network, few, order[i : i + 1], rate) for i in range(len(order))])
    off = float((together - alone).abs().max() / alone.abs().max().clamp_min(1e-30))
    if not off <= TOLERANCE[next(network.model.parameters()).dtype]:
        raise ConfigError(
            f"model.dropout={rate}: with this model what is dropped of a row changes with the rows "
            f"beside it (its loss by {100 * off:.0f} %); use model.dropout=null, or adapter.dropout"
        )


def _difference(found: Stack, alone: Stack) -> float:
    """Largest relative difference of a tensor of an example; NaN where one is not finite.

    A tensor with a thousandth of its example's norm or less may differ by its rounding.
    """
    if any(found[name].shape != value.shape for name, value in alone.items()):
        return math.inf  # a layer's first axis is not the examples (Swin's is of windows)
    norms = {name: value.flatten(1).norm(dim=1) for name, value in alone.items()}
    least = 1e-3 * torch.stack(list(norms.values())).norm(dim=0)
    off = [
        (found[name] - value).flatten(1).norm(dim=1) / torch.maximum(norms[name], least)
        for name, value in alone.items()
    ]
    return float(torch.stack(off).max())


def _job(network: Network, covered: Sequence[str]) -> LocalJob:
    """One client somewhere near the start, with everything trained that ever is."""
    near = {
        name: value + SPREAD * keys.normal(keys.derive(0, "near", name), tuple(value.shape))
        for name, value in network.initial.items()
    }
    one = np.ones(1)
    return LocalJob(
        round=1,
        clients=np.zeros(1, np.int64),
        batches=(),
        start={name: near[name][None] for name in covered},
        common={name: value for name, value in near.items() if name not in covered},
        trainable=tuple(covered),
        optimizer=LocalOptimizer("sgd", 1.0),
        privacy=ExamplePrivacy(1.0, one, one, b""),
    )


def _losses(
    network: Network, examples: Examples, rows: np.ndarray, rate: float | Literal["own"]
) -> Tensor:
    """Of rows ``[rows]`` with dropout, by keys of their own."""
    context, values = network.context, network.initial
    words = np.array([keys.torch_seed(keys.derive(0, "check", int(row))) for row in rows])
    with network.dropping(None, ModelDropout(context, rate, words)), torch.no_grad():
        batch = MicroBatch.of(network, examples, np.zeros(len(rows), np.int64), rows)
        given = {n: v.to(network.device) for n, v in values.items()}
        return network.losses(batch.inputs, given, batch.targets)
