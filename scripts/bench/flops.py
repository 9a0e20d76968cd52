"""The least arithmetic a step needs, and how fast this machine multiplies matrices.

Two FLOPs a multiply-add. Counted: linear layers and attention, forward on real tokens, and the
gradient with respect to their inputs down to layer 0's query and value outputs; of the last layer
only the row that the head reads. Not counted: adapters, norms, activations, softmax, optimiser.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

GEMMS = ((1024, 384, 384), (1024, 384, 1536), (1024, 1536, 384), (1024, 1024, 1024))
GPU_GEMMS = ((8192, 1024, 1024), (8192, 1024, 4096), (8192, 4096, 1024), (8192, 8192, 8192))
TRIES = 60


@dataclass(frozen=True)
class Shape:
    """What the count needs to know of a BERT-like classifier."""

    layers: int
    hidden: int
    intermediate: int
    classes: int

    @staticmethod
    def of(config: Any) -> Shape:
        """From a Hugging Face configuration."""
        return Shape(
            config.num_hidden_layers,
            config.hidden_size,
            config.intermediate_size,
            config.num_labels,
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
        feed-forward            [m, d] x [d, f], [m, f] x [f, d]    4 m d f
        Q K^T and P V           heads x [m, d/heads] x [d/heads, n] 2 m n d each

    Backward, with respect to inputs: every linear layer once more; dP = dO V^T, dV = P^T dO,
    dQ = dS K, dK = dS^T Q at 2 m n d each. In the lowest layer nothing below the query and value
    outputs: neither their inputs nor dK.
    """
    n, m, d, f = length, rows, shape.hidden, shape.intermediate
    into_attention = 2 * m * d * d + 4 * n * d * d  # query; key and value
    behind_attention = 2 * m * d * d + 4 * m * d * f  # output and feed-forward
    product = 2 * m * n * d  # each of the attention products
    forward = into_attention + behind_attention + 2 * product
    if lowest:
        return forward, behind_attention + 3 * product
    return forward, behind_attention + 4 * product + into_attention


def gemm_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of the fastest of ``TRIES`` ``torch.mm`` over each of the shapes.

    A GPU is asked for larger products as well: the small ones do not fill it.
    """
    shapes = GEMMS + GPU_GEMMS if device.type == "cuda" else GEMMS
    return max(2 * m * k * n / _fastest(m, k, n, device, dtype) for m, k, n in shapes)


def _fastest(m: int, k: int, n: int, device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of the fastest ``[m, k] x [k, n]``."""
    a = torch.randn(m, k, device=device, dtype=dtype)
    b = torch.randn(k, n, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(TRIES):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            torch.mm(a, b)
            end.record()
            end.synchronize()
            best = min(best, start.elapsed_time(end) / 1000)
        else:
            began = time.perf_counter()
            torch.mm(a, b)
            best = min(best, time.perf_counter() - began)
    return best
