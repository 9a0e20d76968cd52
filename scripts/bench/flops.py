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
    """What the count needs to know of an encoder with a classifier, or of a decoder."""

    layers: int
    hidden: int
    intermediate: int
    classes: int  # of a language model the vocabulary
    feed: int = 2  # products of the feed-forward block; a gated one has three
    shared: int = 1  # query heads that share keys and values
    decoder: bool = False  # causal, its head one layer

    @staticmethod
    def of(config: Any) -> Shape:
        """From a Hugging Face configuration."""
        distilled = config.model_type == "distilbert"
        if config.model_type == "llama":
            shared = config.num_attention_heads // config.num_key_value_heads
            sizes = (config.num_hidden_layers, config.hidden_size, config.intermediate_size)
            return Shape(*sizes, config.vocab_size, 3, shared, True)
        return Shape(
            config.num_hidden_layers,
            config.hidden_size,
            config.hidden_dim if distilled else config.intermediate_size,
            config.num_labels,
            3 if config.model_type == "modernbert" else 2,
        )


def step_flops(
    shape: Shape, lengths: Iterable[int], read: Iterable[int] | int | None = 1
) -> tuple[int, int]:
    """FLOPs of forward and of input-gradient backward over examples of these lengths.

    Args:
        shape: of the model.
        lengths: tokens of each example.
        read: rows of each example that the head reads; the last layer computes them alone. None:
            one, and the last layer computes all.
    """
    forward = backward = 0
    lengths = np.asarray(lengths, dtype=np.int64)
    pairs = np.stack(
        [lengths, np.broadcast_to(np.asarray(1 if read is None else read), lengths.shape)]
    )
    sizes, counts = np.unique(pairs, axis=1, return_counts=True)
    for (length, rows), count in zip(sizes.T.tolist(), counts.tolist(), strict=True):
        # Pooler or RoBERTa's head.dense [d, d], then [classes, d], on every row read; both ways.
        dense = 0 if shape.decoder else shape.hidden
        head = 2 * rows * shape.hidden * (dense + shape.classes)
        forward += count * head
        backward += count * head
        for layer in range(shape.layers):
            last = layer == shape.layers - 1
            out = rows if last and read is not None else length
            ahead, back = _layer_flops(shape, length, out, lowest=layer == 0)
            forward += count * ahead
            backward += count * back
    return forward, backward


def _layer_flops(shape: Shape, length: int, rows: int, lowest: bool) -> tuple[int, int]:
    """One layer, one example: ``length`` tokens in, ``rows`` rows out.

    n = length, m = rows, d = hidden, f = intermediate:

        query, output           [m, d] x [d, d]                 2 m d d each
        key, value              [n, d] x [d, d / shared]        2 n d d / shared each
        feed-forward            [m, d] x [d, f], [m, f] x [f, d]    2 m d f each
        Q K^T and P V           heads x [m, d/heads] x [d/heads, n] 2 m n d each; causal: half

    Backward, with respect to inputs: every linear layer once more; dP = dO V^T, dV = P^T dO,
    dQ = dS K, dK = dS^T Q at 2 m n d each. In the lowest layer nothing below the query and value
    outputs: neither their inputs nor dK.
    """
    n, m, d, f = length, rows, shape.hidden, shape.intermediate
    into_attention = 2 * m * d * d + 4 * n * d * d // shape.shared  # query; key and value
    behind_attention = 2 * m * d * d + 2 * shape.feed * m * d * f  # output and feed-forward
    product = (1 if shape.decoder else 2) * m * n * d  # each of the attention products
    forward = into_attention + behind_attention + 2 * product
    if lowest:
        return forward, behind_attention + 3 * product
    return forward, behind_attention + 4 * product + into_attention
