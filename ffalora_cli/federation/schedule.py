"""Gives the local learning rate of a round: a function of the round's number and of the config.

Nothing is remembered, so a resumed run, every rank and both engines have the same rates.
"""

from __future__ import annotations

import math

from ffalora_cli.config.schema import FederationConfig


def local_lr(config: FederationConfig, round: int) -> float:
    """Rate of a round's local steps.

    It rises linearly over ``warmup_rounds`` and is ``local_lr`` in the round after them; from there
    it falls so that it would be ``lr_end * local_lr`` in the round after the last (transformers
    counts optimiser steps likewise), and no round is trained with a rate of zero.

    Args:
        config: the federation group.
        round: from 1.
    """
    warmup = config.warmup_rounds
    if round <= warmup:
        return config.local_lr * round / (warmup + 1)
    if config.lr_schedule == "constant":
        return config.local_lr
    passed = (round - 1 - warmup) / (config.rounds - warmup)  # 0 <= passed < 1
    left = (1 + math.cos(math.pi * passed)) / 2 if config.lr_schedule == "cosine" else 1 - passed
    return config.local_lr * (config.lr_end + (1 - config.lr_end) * left)


def in_words(config: FederationConfig) -> str:
    """``0.1``, or ``0.1 (5 warm-up rounds, cosine to 0.01)``."""
    rate, how = config.local_lr, []
    if config.warmup_rounds:
        how.append(f"{config.warmup_rounds} warm-up round{'s' * (config.warmup_rounds > 1)}")
    if config.lr_schedule != "constant":
        how.append(f"{config.lr_schedule} to {config.lr_end * rate:g}")
    return f"{rate:g} ({', '.join(how)})" if how else f"{rate:g}"
