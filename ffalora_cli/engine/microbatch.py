"""Cuts a step's examples into micro-batches of nearly equal length."""

from __future__ import annotations

import numpy as np

from ffalora_cli.adapters.layout import Layout


def cut(lengths: np.ndarray, max_tokens: int, max_examples: int, packed: bool) -> list[np.ndarray]:
    """Sort by length, longest first, and cut greedily.

    Args:
        lengths: int [pairs], real tokens of each example.
        max_tokens: tokens of a micro-batch: real ones when packed, otherwise examples × the
            longest of them. One example longer than that makes a micro-batch of its own.
        max_examples: bound from memory: examples × parameters × 8 bytes.
        packed: whether the forward pass has no padding.

    Returns:
        Positions of the pairs in each micro-batch, int64; together every position once. Ties keep
        their order, so the cut depends on the lengths alone.
    """
    order = np.argsort(-lengths, kind="stable")
    ordered = lengths[order].astype(np.int64)
    batches = []
    start = 0
    while start < len(order):
        ahead = ordered[start : start + min(max_examples, max_tokens)]
        used = np.cumsum(ahead) if packed else ahead[0] * np.arange(1, len(ahead) + 1)
        count = max(1, int(np.searchsorted(used, max_tokens, side="right")))
        batches.append(order[start : start + count])
        start += count
    return batches


def deal(lengths: np.ndarray, max_tokens: int, max_examples: int) -> list[np.ndarray]:
    """Deal examples out, longest first: few micro-batches, each with examples of all lengths.

    Where every shape costs a capture they should be alike; ``cut`` makes no two of one shape.

    Args:
        lengths: int [pairs], real tokens of each example.
        max_tokens: real tokens of a micro-batch, to within one example.
        max_examples: bound from memory.

    Returns:
        As ``cut``.
    """
    order = np.argsort(-lengths, kind="stable")
    count = max(-(-int(lengths.sum()) // max_tokens), -(-len(lengths) // max_examples))
    return [order[first::count] for first in range(min(count, len(order)))]


def padded_tokens(lengths: np.ndarray, class_rows: int | None) -> int:
    """Tokens that one micro-batch of these lengths, longest first, computes, padding included.

    Args:
        lengths: int [examples].
        class_rows: price of a class of the layout; None: padded to the longest.
    """
    if class_rows is None:
        return int(lengths.max()) * len(lengths)
    return len(Layout.of(lengths, class_rows).owner)
