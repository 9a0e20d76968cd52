"""Refuses ways to deal rows to clients that are not defined; the data itself is not needed."""

from __future__ import annotations

import math

from ffalora_cli.config.errors import ConfigError, choose, require
from ffalora_cli.config.schema import PartitionConfig


def check_partition(
    partition: PartitionConfig, clients: int | None, classes: int, *, has_owners: bool
) -> None:
    """Refuse a scheme without its parameter, or for these clients and classes.

    Args:
        partition: scheme and its parameters.
        clients: of the federation; None: as many as the data has.
        classes: of the task.
        has_owners: whether a column of the data names the client of each row.

    Raises:
        ConfigError: the first rule that does not hold.
    """
    if clients is not None:
        require("federation.num_clients", clients, clients >= 1, "1 or more, or null")
    name, concentration = partition.name, partition.dirichlet_alpha
    if concentration is not None:
        fits = 0 < concentration < math.inf
        require("partition.dirichlet_alpha", concentration, fits, "above 0; 0.5 is usual")
    elif name in ("dirichlet", "quantity"):
        raise ConfigError(
            f"partition.dirichlet_alpha is null, and partition.name={name} needs it; set "
            "partition.dirichlet_alpha=0.5, say"
        )
    each = partition.shards_per_client
    if name == "shards":
        require("partition.shards_per_client", each, (each or 0) >= 1, "1 or more; 2 is usual")
    if name == "natural" and not has_owners:
        raise ConfigError(
            "partition=natural: the task has no client column; use partition=dirichlet, or set "
            "task.client_column"
        )
    if name != "label_mix":
        return
    if partition.label_mix not in ("severe", "mild"):
        raise choose("partition.label_mix", partition.label_mix, ("severe", "mild"))
    if clients != 3 or classes not in (2, 3):
        raise ConfigError(
            f"partition={partition.label_mix} is defined for 3 clients and 2 or 3 classes, not "
            f"{clients} and {classes}; use partition=dirichlet"
        )
