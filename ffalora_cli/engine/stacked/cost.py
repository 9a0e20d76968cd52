"""Cost model: materialise a tensor's per-example gradients, or use ghost norms.

Counted in multiply-adds of one micro-batch; moving a number to or from memory counts as
``MOVE`` of them (about what a core multiplies while it loads one). The choice depends on shapes and
lengths alone, so it is the same whenever the same work is done again.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

MOVE = 4.0
PASSES = 6  # over memory: a copy of W is written and read, its gradient written, squared, summed
OVERHEAD = 3e6  # a dozen small operators more for every tensor with ghost norms


def ghost_tensors(
    shapes: Mapping[str, tuple[int, ...]], one_row: frozenset[str], lengths: np.ndarray
) -> frozenset[str]:
    """Names of the tensors for which ghost norms cost less.

    Args:
        shapes: of the trained tensors ``[m, k]``; other ranks (biases) are always materialised.
        one_row: tensors that see one row an example (the head), not all of its tokens.
        lengths: int [examples], tokens of the examples of a step.
    """
    tokens = np.asarray(lengths, dtype=np.float64)
    chosen = set()
    for name, shape in shapes.items():
        if len(shape) != 2:
            continue
        rows = np.ones_like(tokens) if name in one_row else tokens
        if _ghost_cost(shape[0], shape[1], rows) < _materialised_cost(shape[0], shape[1], rows):
            chosen.add(name)
    return frozenset(chosen)


def _materialised_cost(m: int, k: int, rows: np.ndarray) -> float:
    """Gathered copies, gradients of their shape, norms, and the weighted sum."""
    return float((rows * m * k + MOVE * PASSES * m * k).sum())


def _ghost_cost(m: int, k: int, rows: np.ndarray) -> float:
    """Gram matrices (or one gradient in passing), rows by client there and back, one product."""
    norms = np.where(
        rows == 1, m + k, np.minimum(rows**2 * (m + k), rows * m * k + 2 * MOVE * m * k)
    )
    return float((norms + rows * m * k + 4 * MOVE * rows * (m + k)).sum()) + OVERHEAD
