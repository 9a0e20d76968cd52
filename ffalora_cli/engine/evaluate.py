"""Scores a model on a split: one pass over length-sorted micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.engine.microbatch import cut
from ffalora_cli.engine.ranks import ALONE, Ranks
from ffalora_cli.metric_keys import evaluated
from ffalora_cli.stopping import Poll, never
from ffalora_cli.tasks import registry
from ffalora_cli.tasks.targets import Scored

if TYPE_CHECKING:
    from ffalora_cli.models.network import Network
    from ffalora_cli.types import Examples, Tensors

Predict = Callable[..., Scored]
"""``predict`` without its last argument, or what shares it out."""


def predict(
    network: Network,
    examples: Examples,
    values: Tensors,
    max_tokens: int,
    poll: Poll = never,
    ranks: Ranks = ALONE,
) -> Scored:
    """Answers and losses of a split's targets under common tensors ``values``.

    Micro-batches are dealt out to the ranks; what one rank answered is zero on the others, so their
    sum has the bits of one process.
    """
    device, targets = network.device, examples.targets
    values = {name: tensor.to(device) for name, tensor in values.items()}
    lengths = np.asarray(examples.lengths)
    answers = np.zeros_like(targets.values)
    losses = np.zeros(len(targets.values), np.float64)
    batches = cut(lengths, max_tokens, len(lengths), network.packs)
    with torch.no_grad():
        for rows in ranks.turns(batches):
            poll()
            batch = targets.batch(rows).to(device)
            given, each = network.answers(network.inputs(examples, rows), values, batch)
            places = targets.index(rows)[0]
            answers[places], losses[places] = given.cpu(), each.cpu()
        if network.sharded and len(ranks.turns(batches)) < -(-len(batches) // ranks.world):
            rows = batches[-1][-1:]  # the others make one pass more, and need this rank's layers
            batch = targets.batch(rows).to(device)
            network.answers(network.inputs(examples, rows), values, batch)
    return Scored(targets, ranks.added(answers), ranks.added(losses))


def evaluate(
    network: Network,
    examples: Examples,
    values: Tensors,
    task: TaskConfig,
    max_tokens: int = 2048,
    prefix: str = evaluated(""),
    poll: Poll = never,
    answer: Predict = predict,
) -> dict[str, float]:
    """Metrics and mean loss of one set of tensors on one split.

    Args:
        network: frozen model with sites, of the task's kind.
        examples: the split.
        values: plain-shaped tensors by name (the global model, or one client's).
        task: its ``metrics`` are scored.
        max_tokens: of a micro-batch.
        prefix: of the returned keys.
        poll: called before every micro-batch.
        answer: what answers the rows.

    Returns:
        ``{prefix + name: value}`` with ``loss`` and every metric asked for.
    """
    scored = answer(network, examples, values, max_tokens, poll)
    result = {prefix + name: network.task.score(task, name, scored) for name in task.metrics}
    result[prefix + "loss"] = float(scored.by_row().mean())
    return result


def client_scores(
    network: Network,
    examples: Examples,
    models: Sequence[Tensors],
    strata_counts: np.ndarray,
    task: TaskConfig,
    max_tokens: int = 2048,
    poll: Poll = never,
    answer: Predict = predict,
) -> tuple[np.ndarray, np.ndarray]:
    """The task's ``client_metric`` of each client's model, and the same re-weighted to its labels.

    The second is ``sum_c p_k(c) * score_k(rows of stratum c)`` with ``p_k`` the client's mix of the
    strata that the split has: what the client would see on data like its own.

    Args:
        network: frozen model with sites.
        examples: the common evaluation split.
        models: each client's tensors, or one model for all of them.
        strata_counts: int [clients, strata] of the training rows.
        task: what is scored.
        max_tokens: of a micro-batch.
        poll: called before every micro-batch.
        answer: what answers the rows.

    Returns:
        Two arrays float64 [clients].
    """
    kind = network.task
    strata, names = registry.strata(task, examples.targets)
    there = np.bincount(strata, minlength=len(names)) > 0  # [strata]
    parts = [np.arange(len(strata)), *(np.flatnonzero(strata == c) for c in np.flatnonzero(there))]
    scores = np.empty((len(models), len(parts)))
    for model, line in zip(models, scores, strict=True):
        scored = answer(network, examples, model, max_tokens, poll)
        for place, rows in enumerate(parts):
            line[place] = kind.score(task, kind.client_metric, scored.take(rows))
    counts = strata_counts[:, there]
    mix = counts / np.maximum(counts.sum(1, keepdims=True), 1)  # [clients, strata of the split]
    plain = np.broadcast_to(scores[:, 0], len(mix))
    own = np.where(counts.any(1), (mix * scores[:, 1:]).sum(1), plain)
    return plain, own
