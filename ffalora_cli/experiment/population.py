"""Deals training rows to clients: the clients of a run, their names and units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ffalora_cli.config.schema import Config

if TYPE_CHECKING:
    from ffalora_cli.data.dataset import TaskData
    from ffalora_cli.data.groups import KeyedRows
    from ffalora_cli.data.partition.partition import ClientRows


@dataclass(frozen=True)
class Population:
    """Clients and their training rows."""

    config: Config  # with the number of clients, where only the data knew it
    clients: ClientRows
    names: tuple[str, ...] | None  # of the clients, where the data has names for them
    notes: tuple[str, ...]  # what a person should know of them


@dataclass(frozen=True)
class ClientTable:
    """Strata, sizes and names of every client; nothing is tokenised."""

    counts: np.ndarray  # int64 [clients, strata], training rows
    strata: tuple[str, ...]  # names: the labels, where the task has them
    sizes: np.ndarray  # int64 [clients], rows
    units: np.ndarray  # int64 [clients], units of privacy by text or column
    names: tuple[str, ...] | None
    notes: tuple[str, ...]


def client_table(config: Config) -> ClientTable:
    """Strata of every client's rows, before anything is tokenised where that leaves no row out."""
    from ffalora_cli.data.dataset import training_rows
    from ffalora_cli.data.partition.partition import strata_table
    from ffalora_cli.data.units import with_units
    from ffalora_cli.tasks import registry

    kind = registry.get(config.task.kind)
    # Answers that do not fit are left out; images are decoded once, for the cache.
    if kind.reads == "vocabulary" or kind.modality == "image":
        from ffalora_cli.models.processor import load_processor

        data, _ = load(config, load_processor(config.model, config.task))
        rows: KeyedRows = data.train
    else:
        rows = training_rows(config.task, config.paths.data, config.partition.keep_together)
    found = populate(config, rows)
    clients = with_units(found.clients, rows, config.privacy.unit)
    strata, names = registry.strata(config.task, rows.targets)
    table = strata_table(clients, strata, len(names))
    return ClientTable(table, names, clients.sizes, clients.num_units, found.names, found.notes)


def load(config: Config, processor: Any) -> tuple[TaskData, Population]:
    """Rows as the model reads them, and who owns which, in units of privacy."""
    from ffalora_cli.data.dataset import prepare
    from ffalora_cli.data.units import with_units

    data = prepare(
        config.task,
        processor,
        config.paths.data,
        config.paths.cache,
        max_examples=config.evaluation.max_examples,
        keep_together=config.partition.keep_together,
    )
    found = populate(config, data.train)
    clients = with_units(found.clients, data.train, config.privacy.unit)
    return data, replace(found, clients=clients)


def populate(config: Config, rows: KeyedRows) -> Population:
    """Deal the training rows to clients; their number is decided here where it was left open."""
    from ffalora_cli.data.holdout import keys_together
    from ffalora_cli.data.partition.partition import partition
    from ffalora_cli.tasks import registry

    config = _numbered(config, rows.clients)
    number = config.federation.num_clients
    assert number is not None
    strata, strata_names = registry.strata(config.task, rows.targets)
    clients = partition(
        config.partition,
        strata,
        len(strata_names),
        number,
        rows.clients,
        keys_together(rows, config.partition.keep_together),
    )
    if config.partition.name != "natural" or rows.clients is None or rows.client_names is None:
        return Population(config, clients, None, ())
    codes = np.asarray(rows.clients)[clients.rows[clients.offsets[:-1]]]  # of each first row
    names = tuple(rows.client_names[code] for code in codes)
    return Population(config, clients, names, _left_out(clients, np.asarray(rows.clients)))


def _numbered(config: Config, clients: np.ndarray | None) -> Config:
    """The configuration with its number of clients: all of the data where it says null."""
    from ffalora_cli.methods import registry

    if config.federation.num_clients is not None or clients is None:
        return config
    federation = replace(config.federation, num_clients=len(np.unique(clients)))
    config = replace(config, federation=federation)
    registry.check(config)  # the rules that need the number
    return config


def _left_out(clients: ClientRows, column: np.ndarray) -> tuple[str, ...]:
    """What a typed number of clients leaves out, in words."""
    there, rows = len(np.unique(column)), len(column) - len(clients.rows)
    if not rows:
        return ()
    return (
        f"federation.num_clients={len(clients)} leaves out {there - len(clients)} of the {there} "
        f"clients of the data, {rows} of {len(column)} training rows "
        f"({100 * rows / len(column):.0f} %); null takes them all",
    )
