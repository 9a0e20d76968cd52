"""Numbers the units of privacy inside a client, equal on different clients.

Neighbouring data sets differ in one unit: a row, all rows of a client that are one text to the
model, or all rows with one value of ``task.unit_column``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.data.encode import Split
from ffalora_cli.data.groups import KeyedRows, in_order
from ffalora_cli.data.partition.partition import ClientRows


def unit_keys(rows: KeyedRows, unit: str) -> np.ndarray:
    """What is protected behind each row, equal on different clients for one text or person.

    A row of unit ``row`` is protected as one row, whatever it says: its key is its own.

    Args:
        rows: the training rows.
        unit: ``privacy.unit``.

    Returns:
        uint64 [n]; for ``find_shared_rows``.
    """
    if unit == "text":
        return np.asarray(rows.text_keys)
    if unit == "column":
        return _column(rows)
    return np.arange(len(rows.targets), dtype=np.uint64)


def with_units(clients: ClientRows, rows: KeyedRows, unit: str) -> ClientRows:
    """The clients' rows with their units of privacy.

    For unit ``text`` rows whose normalised texts are one sequence to the model (after truncation)
    are a unit: they are one text, or differ where it does not look. A row's unit follows from the
    row alone, so that one row more or less never joins or splits units.

    Args:
        clients: row numbers by client.
        rows: the training rows; while they are not tokenised, texts decide.
        unit: ``privacy.unit``; ``none``, ``row`` and ``client`` need no units inside clients.

    Returns:
        ``units`` is None where every unit is one row.
    """
    if unit not in ("text", "column"):
        return clients
    keys = unit_keys(rows, unit)
    if unit == "text" and isinstance(rows, Split):
        keys = np.asarray(rows.sequence_keys)
    owner = np.repeat(np.arange(len(clients)), clients.sizes)
    pairs = np.stack([owner.astype(np.uint64), keys[clients.rows]], axis=1)
    number = in_order(np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1))
    if len(np.unique(number)) == len(number):
        return replace(clients, units=None)
    first = np.full(len(clients), len(number), dtype=np.int64)
    np.minimum.at(first, owner, number)  # rows come client by client, so do numbers
    return replace(clients, units=number - first[owner])


def _column(rows: KeyedRows) -> np.ndarray:
    if rows.unit_keys is None:
        raise ConfigError(
            "privacy.unit=column needs a column; set task.unit_column=NAME, or privacy.unit=text"
        )
    return np.asarray(rows.unit_keys)
