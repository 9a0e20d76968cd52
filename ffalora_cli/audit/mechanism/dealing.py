"""Checks that no unit lies on two clients: the run's own partition deals rows, many in units."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ffalora_cli.audit.mechanism.surrogate import Subject
from ffalora_cli.audit.outcome import Check, exact
from ffalora_cli.data.partition import partition as partitions
from ffalora_cli.tasks import registry

TWINS = "no unit is on two clients"
SIZES = (1, 1, 2, 5)  # rows of the units, in turn
UNITS = 200  # for each client


def twins(subject: Subject) -> Check:
    """Units that the partition put on several clients, where it promises to keep them together.

    ``natural`` leaves rows where they are, and units that are not what is kept together may be
    anywhere: there the claim is their composition.
    """
    config, clients = subject.config, subject.plan.num_clients
    unit, kept = config.privacy.unit, config.partition.keep_together
    if unit == "row" or kept == "row" or (unit == "text") != (kept == "text"):
        return exact(TWINS, 0, "not promised: units on several clients are composed in the claim")
    if config.partition.name == "natural":
        return exact(TWINS, 0, "the data says who holds what: composed in the claim")
    generator = np.random.default_rng(0)
    keys = np.repeat(np.arange(UNITS * clients), np.resize(SIZES, UNITS * clients))
    keys = generator.permutation(keys).astype(np.uint64)
    number = max(len(registry.get(config.task.kind).strata_names(config.task)), 1)
    strata = generator.integers(0, number, len(keys))
    dealing = replace(config.partition, min_client_size=0)
    dealt = partitions.partition(dealing, strata, number, clients, None, keys)
    owner = np.repeat(np.arange(clients), dealt.sizes).astype(np.uint64)
    held = np.unique(np.stack([keys[dealt.rows], owner], axis=1), axis=0)
    several = len(held) - len(np.unique(keys))
    return exact(TWINS, several, f"{several} of {UNITS * clients:,} units lie on several clients")
