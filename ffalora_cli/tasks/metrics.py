"""Classification scores from a confusion matrix ``[classes, classes]`` (rows: true, columns: said).

Degenerate cases are defined as in scikit-learn: a score whose denominator is zero is 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ffalora_cli.config.errors import ConfigError

Confusion = NDArray[np.int64]  # [classes, classes]


def confusion(labels: ArrayLike, predictions: ArrayLike, classes: int) -> Confusion:
    """Count (true class, predicted class) pairs.

    Args:
        labels: ``[rows]`` true classes, integers from 0.
        predictions: ``[rows]`` predicted classes.
        classes: number of classes.

    Returns:
        ``[classes, classes]`` int64; matrices of disjoint rows add up.

    Raises:
        ValueError: for lengths that differ, values that are not integers, classes out of range.
    """
    true, said = np.asarray(labels), np.asarray(predictions)
    if true.ndim != 1 or true.shape != said.shape:
        raise ValueError(f"labels {true.shape} and predictions {said.shape} are not two equal rows")
    if true.size == 0:
        return np.zeros((classes, classes), dtype=np.int64)
    for name, values in (("labels", true), ("predictions", said)):
        if not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"{name} are {values.dtype}, not integers")
        if values.min() < 0 or values.max() >= classes:
            raise ValueError(f"{name} lie in {values.min()}..{values.max()}, not 0..{classes - 1}")
    pairs = true.astype(np.int64) * classes + said.astype(np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def accuracy(counts: Confusion) -> float:
    """Share of rows on the diagonal."""
    return _ratio(float(np.trace(counts)), float(counts.sum()))


def f1(counts: Confusion) -> float:
    """F1 of class 1 of two, as GLUE scores MRPC and QQP: ``2 TP / (2 TP + FP + FN)``.

    Raises:
        ConfigError: for a task that does not have two classes.
    """
    if counts.shape != (2, 2):
        raise ConfigError(f"task.metrics: f1 needs 2 classes, not {len(counts)}; use accuracy")
    true_positive = float(counts[1, 1])
    wrong = float(counts[0, 1] + counts[1, 0])
    return _ratio(2 * true_positive, 2 * true_positive + wrong)


def mcc(counts: Confusion) -> float:
    """Matthews' correlation, as GLUE scores CoLA; Gorodkin (2004), equation 8, for more classes."""
    exact = counts.astype(np.float64)  # products of counts pass 2**63
    rows = exact.sum()
    true, said = exact.sum(axis=1), exact.sum(axis=0)  # [classes]
    covariance = np.trace(exact) * rows - true @ said
    spread = (rows**2 - said @ said) * (rows**2 - true @ true)
    return _ratio(float(covariance), float(np.sqrt(spread)))


SCORES: dict[str, Callable[[Confusion], float]] = {"accuracy": accuracy, "f1": f1, "mcc": mcc}
"""By the names that ``task.metrics`` uses."""


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0
