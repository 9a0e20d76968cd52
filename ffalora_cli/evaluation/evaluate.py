"""Scoring a model on a split: one pass over length-sorted micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from ffalora_cli.data.microbatch import cut
from ffalora_cli.evaluation.metrics import confusion, score
from ffalora_cli.metric_keys import evaluated
from ffalora_cli.stopping import Poll, never

if TYPE_CHECKING:
    from ffalora_cli.models.network import Network
    from ffalora_cli.types import Examples, Tensors


def predict(
    network: Network, examples: Examples, values: Tensors, max_tokens: int, poll: Poll = never
) -> tuple[np.ndarray, np.ndarray]:
    """Predicted classes int64 [rows] and losses float64 [rows] under common tensors ``values``."""
    device = network.device
    values = {name: tensor.to(device) for name, tensor in values.items()}
    lengths = np.asarray(examples.lengths)
    targets = np.asarray(examples.labels)
    predictions = np.empty(len(lengths), np.int64)
    losses = np.empty(len(lengths), np.float64)
    with torch.no_grad():
        for rows in cut(lengths, max_tokens, len(lengths), network.packs):
            poll()
            logits = network.logits(examples, rows, values)
            labels = torch.from_numpy(targets[rows]).to(device)
            losses[rows] = nn.functional.cross_entropy(logits, labels, reduction="none").cpu()
            predictions[rows] = logits.argmax(-1).cpu()
    return predictions, losses


def evaluate(
    network: Network,
    examples: Examples,
    values: Tensors,
    metrics: Sequence[str],
    classes: int,
    max_tokens: int = 2048,
    prefix: str = evaluated(""),
    poll: Poll = never,
) -> dict[str, float]:
    """Metrics and mean loss of one set of tensors on one split.

    Args:
        network: frozen model with sites.
        examples: the split.
        values: plain-shaped tensors by name (the global model, or one client's).
        metrics: names known to ``evaluation.metrics``.
        classes: number of classes.
        max_tokens: of a micro-batch.
        prefix: of the returned keys.
        poll: called before every micro-batch.

    Returns:
        ``{prefix + name: value}`` with ``loss`` (nats) and every metric asked for.
    """
    predictions, losses = predict(network, examples, values, max_tokens, poll)
    table = confusion(np.asarray(examples.labels), predictions, classes)
    result = {prefix + name: score(name, table) for name in metrics}
    result[prefix + "loss"] = float(losses.mean())
    return result


def client_accuracy(
    network: Network,
    examples: Examples,
    models: Sequence[Tensors],
    label_counts: np.ndarray,
    max_tokens: int = 2048,
    poll: Poll = never,
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy of each client's model, on the split and re-weighted to the client's labels.

    The second is ``sum_c p_k(c) * accuracy_k(class c)`` with ``p_k`` the client's label mix: what
    the client would see on data like its own.

    Args:
        network: frozen model with sites.
        examples: the common evaluation split.
        models: each client's tensors, or one model for all of them.
        label_counts: int [clients, classes] of the training rows.
        max_tokens: of a micro-batch.
        poll: called before every micro-batch.

    Returns:
        Two arrays float64 [clients].
    """
    labels = np.asarray(examples.labels)
    classes = label_counts.shape[1]
    tables = np.array(
        [
            confusion(labels, predict(network, examples, model, max_tokens, poll)[0], classes)
            for model in models
        ]
    )  # [models, classes, classes], rows are true labels
    right = tables.diagonal(axis1=1, axis2=2)  # [models, classes]
    plain = right.sum(1) / len(labels)
    per_class = right / np.maximum(tables.sum(2), 1)  # [models, classes]
    mix = label_counts / label_counts.sum(1, keepdims=True)  # [clients, classes]
    own = (mix * per_class).sum(1)
    return np.broadcast_to(plain, own.shape), own
