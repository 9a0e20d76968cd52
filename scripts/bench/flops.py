"""The least arithmetic a step needs.

Two FLOPs a multiply-add. Counted: linear layers and attention, forward on real tokens, and the
gradient with respect to their inputs down to layer 0's query and value outputs; of the last layer
only the row that the head reads. Not counted: adapters, norms, activations, softmax, optimiser.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Shape:
    """What the count needs to know of an encoder with a classifier."""

    layers: int
    hidden: int
    intermediate: int
    classes: int
    feed: int = 2  # products of the feed-forward block; a gated one has three

    @staticmethod
    def of(config: Any) -> Shape:
        """From a Hugging Face configuration."""
        distilled = config.model_type == "distilbert"
        return Shape(
            config.num_hidden_layers,
            config.hidden_size,
            config.hidden_dim if distilled else config.intermediate_size,
            config.num_labels,
            3 if config.model_type == "modernbert" else 2,
        )


def step_flops(shape: Shape, lengths: Iterable[int], head_row_only: bool = True) -> tuple[int, int]:
    """FLOPs of forward and of input-gradient backward over examples of these lengths.

    Args:
        shape: of the model.
        lengths: tokens of each example.
        head_row_only: of the last layer compute the head's row only; False: all rows.
    """
    forward = backward = 0
    sizes, counts = np.unique(np.asarray(lengths, dtype=np.int64), return_counts=True)
    for length, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        # Pooler or RoBERTa's head.dense [d, d], then [classes, d], on one row; both ways.
        head = 2 * shape.hidden * (shape.hidden + shape.classes)
        forward += count * head
        backward += count * head
        for layer in range(shape.layers):
            last = layer == shape.layers - 1
            rows = 1 if last and head_row_only else length
            ahead, back = _layer_flops(shape, length, rows, lowest=layer == 0)
            forward += count * ahead
            backward += count * back
    return forward, backward


def _layer_flops(shape: Shape, length: int, rows: int, lowest: bool) -> tuple[int, int]:
    """One layer, one example: ``length`` tokens in, ``rows`` rows out.

    n = length, m = rows, d = hidden, f = intermediate:

        query, output           [m, d] x [d, d]                 2 m d d each
        key, value              [n, d] x [d, d]                 2 n d d each
        feed-forward            [m, d] x [d, f], [m, f] x [f, d]    2 m d f each
        Q K^T and P V           heads x [m, d/heads] x [d/heads, n] 2 m n d each

    Backward, with respect to inputs: every linear layer once more; dP = dO V^T, dV = P^T dO,
    dQ = dS K, dK = dS^T Q at 2 m n d each. In the lowest layer nothing below the query and value
    outputs: neither their inputs nor dK.
    """
    n, m, d, f = length, rows, shape.hidden, shape.intermediate
    into_attention = 2 * m * d * d + 4 * n * d * d  # query; key and value
    behind_attention = 2 * m * d * d + 2 * shape.feed * m * d * f  # output and feed-forward
    product = 2 * m * n * d  # each of the attention products
    forward = into_attention + behind_attention + 2 * product
    if lowest:
        return forward, behind_attention + 3 * product
    return forward, behind_attention + 4 * product + into_attention
