"""Checks that one more row moves a step's sum by at most the clip, on any engine.

A random search over batches, with and without one more row. What mixes examples shows here: batch
statistics, a mask over packed rows, a layer that is called once for all of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ffalora_cli import keys
from ffalora_cli.audit.mechanism.observe import WatchedOptimizer
from ffalora_cli.audit.outcome import Check
from ffalora_cli.engine.job import Engine, ExamplePrivacy, LocalJob, stack_step
from ffalora_cli.engine.stacked.engine import StackedEngine
from ffalora_cli.privacy.mechanism.clipping import ClipKind

if TYPE_CHECKING:
    from ffalora_cli.audit.mechanism.surrogate import Subject
    from ffalora_cli.models.network import Network

SIZES = (0, 1, 2, 3, 5, 8)  # of the batches that get one more row
SPREAD = 0.1  # of the factors around the start, where a B of zero leaves A without a gradient
CLIPS = (1.0, 0.01)  # of the run's: some gradients shorter than it, and all of them longer
SLACK = 1e-5  # relative: the other rows' gradients differ in their last bits beside one more


def furthest_move(
    engine: Engine,
    network: Network,
    trained: Sequence[str],
    rows: int,
    max_grad_norm: float,
    clip: ClipKind = "flat",
    seed: int = 0,
) -> float:
    """Largest move of a client's sum of clipped gradients by one more row, in units of C; no noise.

    Args:
        engine: over the network and at least 9 rows.
        network: with sites; where the client is, is drawn around its start.
        trained: names of the trained tensors.
        rows: to draw from.
        max_grad_norm: C.
        clip: the rule.
        seed: of the batches; each gets a new row at either end.
    """
    generator = np.random.default_rng(seed)
    batches: list[list[int]] = []
    for size in SIZES:
        drawn = generator.permutation(rows)[: size + 2].tolist()
        batch, first, last = drawn[:size], drawn[-2], drawn[-1]
        batches += [batch, [first, *batch], [*batch, last]]
    near = {
        name: value + SPREAD * keys.normal(keys.derive(0, "near", name), tuple(value.shape))
        for name, value in network.initial.items()
    }
    seen: list[Tensor] = []  # float64 [P] each

    def see(grads: list[Tensor]) -> None:
        seen.append(torch.cat([grad.flatten() for grad in grads]).double())

    engine.train(
        LocalJob(
            round=1,
            clients=np.zeros(1, np.int64),
            batches=[stack_step([np.array(batch, np.int64)]) for batch in batches],
            start={name: near[name][None] for name in trained},
            common={name: value for name, value in near.items() if name not in trained},
            trainable=tuple(trained),
            optimizer=WatchedOptimizer("sgd", 1e-30, see=see),  # fp32 does not see this rate
            privacy=ExamplePrivacy(max_grad_norm, np.zeros(1), np.ones(1), b"", clip),
        )
    )
    sums = torch.stack(seen)  # [batches, P]
    moved = torch.cat([sums[1::3] - sums[::3], sums[2::3] - sums[::3]]).norm(dim=1)
    return float(moved.max()) / max_grad_norm


def one_more(subject: Subject) -> Check:
    """The run's engine, rule and tensors on the surrogate; the stacked one on both its paths."""
    trained = [spec.name for spec in subject.simulation().trainable(1)]
    engines: dict[str, Engine] = {subject.config.engine.name: subject.engine()}
    if subject.config.engine.name == "stacked":
        on_gpu = StackedEngine(subject.network, subject.examples, subject.max_tokens, fixed=True)
        engines["stacked, in the fixed shapes of a GPU"] = on_gpu
    plan, found = subject.plan, dict[str, float]()
    for name, engine in engines.items():
        for share in CLIPS:
            clip = share * plan.max_grad_norm
            moved = furthest_move(
                engine, subject.network, trained, len(subject.examples.lengths), clip, plan.clip
            )
            found[name] = max(moved, found.get(name, 0.0))
    worst = max(found, key=lambda name: found[name])
    pairs = 2 * len(SIZES) * len(CLIPS) * len(engines)
    return Check(
        "one real example more",
        found[worst],
        1.0 + SLACK,
        None,
        all(moved <= 1.0 + SLACK for moved in found.values()),  # a NaN of any engine fails
        f"moves the sum by {found[worst]:.7f} clips at most ({pairs} pairs; {worst})",
    )
