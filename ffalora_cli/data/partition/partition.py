"""Splits training rows over clients, without a Python object a client: a million are fine."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from ffalora_cli.config.errors import ConfigError, choose
from ffalora_cli.config.partition_rules import check_partition
from ffalora_cli.config.schema import PartitionConfig
from ffalora_cli.data.groups import Groups, group_rows
from ffalora_cli.data.partition import skew
from ffalora_cli.data.partition.dealing import deal, sizes_of
from ffalora_cli.keys import derive

SEAMS = ("_collect",)


@dataclass(frozen=True)
class ClientRows:
    """Row numbers by client: client ``k`` has ``rows[offsets[k]:offsets[k + 1]]``, ascending.

    Its rows form units of privacy, numbered from 0 within each client; None: each row is its own.
    """

    rows: np.ndarray  # int64 [total]
    offsets: np.ndarray  # int64 [num_clients + 1]
    units: np.ndarray | None = None  # int64 [total], unit of each row within its client

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, client: int) -> np.ndarray:
        """Rows of one client, ascending, int64 [size]."""
        return self.rows[self.offsets[client] : self.offsets[client + 1]]

    def units_of(self, client: int) -> np.ndarray | None:
        """Unit of each row of one client, int64 [size]; None where each row is its own."""
        if self.units is None:
            return None
        return self.units[self.offsets[client] : self.offsets[client + 1]]

    @property
    def sizes(self) -> np.ndarray:
        """Rows of each client, int64 [num_clients]."""
        return np.diff(self.offsets)

    @property
    def num_units(self) -> np.ndarray:
        """Units of each client, int64 [num_clients]."""
        if self.units is None:
            return self.sizes
        most = np.zeros(len(self), dtype=np.int64)
        owner = np.repeat(np.arange(len(self)), self.sizes)
        np.maximum.at(most, owner, self.units + 1)
        return most


def partition(
    config: PartitionConfig,
    strata: np.ndarray,
    num_strata: int,
    num_clients: int,
    clients: np.ndarray | None = None,
    together: np.ndarray | None = None,
) -> ClientRows:
    """Split the training rows over clients.

    Every row goes to exactly one client; only ``natural`` with fewer clients than the data has
    leaves rows out (those of the smallest). Rows that belong together stay together, and
    count with the commonest stratum among them; ``natural`` leaves every row where it is.

    Args:
        config: scheme and its parameters; ``config.seed`` decides every draw.
        strata: int [n], below ``num_strata``; labels, where the task has them.
        num_strata: how many there are.
        num_clients: of the federation.
        clients: int [n], a client column; needed by ``natural``, ignored by the others.
        together: uint64 [n], equal for rows that are dealt as one; None: each by itself.

    Raises:
        ConfigError: the scheme does not know these clients or strata, a parameter is out of
            range, or no client may be as small as one would be.
    """
    check_partition(config, num_clients, num_strata, has_owners=clients is not None)
    if config.name == "natural":
        assert clients is not None  # checked
        _check(config, len(strata), len(strata), num_clients)
        owner = _natural(clients, num_clients)
    else:
        groups = group_rows(strata, together)
        _check(config, len(strata), len(groups), num_clients)
        owner = _dealt(config, groups, num_strata, num_clients)[groups.of_row]
    client_rows = _collect(owner, num_clients)
    smallest = int(client_rows.sizes.min())
    if smallest < config.min_client_size:
        raise ConfigError(
            f"partition.min_client_size={config.min_client_size}, but {config.name} gives a client "
            f"of {smallest} rows; set it to {smallest} or lower federation.num_clients"
        )
    return client_rows


def _dealt(
    config: PartitionConfig, groups: Groups, num_strata: int, num_clients: int
) -> np.ndarray:
    """Client of each group, int64 [groups], by the scheme of the configuration."""
    key = derive(config.seed, "partition", config.name)
    if config.name in ("iid", "quantity"):  # strata play no part
        groups, num_strata = replace(groups, strata=np.zeros_like(groups.strata)), 1
    rows = np.bincount(groups.strata, groups.sizes, num_strata).astype(np.int64)  # [strata]

    def dealt(counts: np.ndarray) -> np.ndarray:
        if (groups.sizes == 1).all():  # every count is met
            sizes: np.ndarray = counts.sum(axis=0)
            return sizes
        return sizes_of(deal(counts, groups, key), groups, num_clients)

    match config.name:
        case "iid":
            counts = skew.even(int(rows[0]), num_clients)[None]
        case "dirichlet" | "quantity":
            counts = skew.dirichlet(config, rows, num_clients, key, dealt)
        case "label_mix":
            counts = skew.label_mix(config, rows)
        case "shards":
            counts, client_of = skew.shards(config, rows, num_clients, key)
            return client_of[deal(counts, groups, key)]
        case _:
            names = ("iid", "dirichlet", "label_mix", "shards", "quantity", "natural")
            raise choose("partition.name", config.name, names)
    return deal(counts, groups, key)


def strata_table(client_rows: ClientRows, strata: np.ndarray, num_strata: int) -> np.ndarray:
    """Rows of each stratum at each client, int64 [clients, strata]."""
    clients = np.repeat(np.arange(len(client_rows)), client_rows.sizes)
    cells = np.bincount(
        clients * num_strata + strata[client_rows.rows], minlength=len(client_rows) * num_strata
    )
    return cells.reshape(len(client_rows), num_strata)


def fingerprint(client_rows: ClientRows) -> str:
    """32 hexadecimal digits, equal exactly when every client has the same rows and units."""
    digest = hashlib.blake2b(digest_size=16)
    for column in (client_rows.offsets, client_rows.rows, client_rows.units):
        if column is not None:
            digest.update(np.ascontiguousarray(column, dtype="<i8"))
    return digest.hexdigest()


def _check(config: PartitionConfig, rows: int, groups: int, num_clients: int) -> None:
    if rows < num_clients:
        raise ConfigError(
            f"federation.num_clients={num_clients} is more than the {rows} training rows; "
            f"set at most {rows}"
        )
    if groups < num_clients:
        raise ConfigError(
            f"federation.num_clients={num_clients} is more than the {groups} groups of rows of "
            f"partition.keep_together={config.keep_together}; set at most {groups}"
        )
    if rows < num_clients * config.min_client_size:
        raise ConfigError(
            f"partition.min_client_size={config.min_client_size} times {num_clients} clients is "
            f"more than the {rows} training rows; set at most {rows // num_clients}"
        )


def _natural(clients: np.ndarray, num_clients: int) -> np.ndarray:
    """Owner by the client column, int64 [n]; -1 for clients below the num_clients largest."""
    present, client, sizes = np.unique(clients, return_inverse=True, return_counts=True)
    if num_clients > len(present):
        raise ConfigError(
            f"federation.num_clients={num_clients} is more than the {len(present)} clients of the "
            f"data; set federation.num_clients={len(present)} or fewer"
        )
    largest = np.sort(np.argsort(-sizes, kind="stable")[:num_clients])
    client_of = np.full(len(present), -1, dtype=np.int64)
    client_of[largest] = np.arange(num_clients)
    return client_of[client]


def _collect(owner: np.ndarray, num_clients: int) -> ClientRows:
    """owner: [n], client of each row or -1."""
    order = np.argsort(owner, kind="stable")
    unused = int((owner < 0).sum())
    sizes = np.bincount(owner[owner >= 0], minlength=num_clients)
    return ClientRows(order[unused:].astype(np.int64), np.concatenate([[0], np.cumsum(sizes)]))
