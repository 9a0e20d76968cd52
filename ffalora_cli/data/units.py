"""The units of privacy inside a client, and what makes them one unit on different clients.

Neighbouring data sets differ in one unit: a row, all rows of a client that are one text to the
model, or all rows with one value of ``task.unit_column`` (design: units are groups of rows).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.data.encode import Encoded
from ffalora_cli.data.groups import as_keys, in_order
from ffalora_cli.data.holdout import Keyed
from ffalora_cli.data.partition import ClientRows


def unit_keys(rows: Keyed, unit: str) -> np.ndarray:
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
    return np.arange(len(rows.labels), dtype=np.uint64)


def with_units(clients: ClientRows, rows: Keyed, unit: str) -> ClientRows:
    """The clients' rows with their units of privacy.

    For unit ``text`` rows of one normalised text are a unit, and so are rows with the same token
    and segment ids after truncation: the model cannot tell them apart.

    Args:
        clients: row numbers by client.
        rows: the training rows; while they are not tokenised, texts alone decide.
        unit: ``privacy.unit``; ``none``, ``row`` and ``client`` need no units inside clients.

    Returns:
        ``units`` is None where every unit is one row.
    """
    if unit not in ("text", "column"):
        return clients
    keys = [unit_keys(rows, unit)[clients.rows]]
    if unit == "text" and isinstance(rows, Encoded):
        keys.append(sequence_keys(rows, clients.rows))
    owner = np.repeat(np.arange(len(clients)), clients.sizes)
    merged = _joined([_pairs(owner, key) for key in keys])
    if len(np.unique(merged)) == len(merged):
        return replace(clients, units=None)
    number = in_order(merged)  # over all clients; rows come client by client, so do numbers
    first = np.full(len(clients), len(merged), dtype=np.int64)
    np.minimum.at(first, owner, number)
    return replace(clients, units=number - first[owner])


def sequence_keys(rows: Encoded, chosen: np.ndarray) -> np.ndarray:
    """A hash of what the model reads of each row: token ids and segment ids, uint64 [m].

    Args:
        rows: encoded, truncated.
        chosen: row numbers, [m].
    """
    spans = zip(rows.offsets[chosen].tolist(), rows.offsets[chosen + 1].tolist(), strict=True)
    if rows.type_ids is None:
        return as_keys(rows.ids[a:b].tobytes() for a, b in spans)
    types = rows.type_ids
    return as_keys(rows.ids[a:b].tobytes() + types[a:b].tobytes() for a, b in spans)


def _column(rows: Keyed) -> np.ndarray:
    if rows.unit_keys is None:
        raise ConfigError(
            "privacy.unit=column needs a column; set task.unit_column=NAME, or privacy.unit=text"
        )
    return np.asarray(rows.unit_keys)


def _pairs(owner: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Numbers of the distinct (client, key) pairs, int64 [total]."""
    order = np.lexsort((keys, owner))
    new = np.append(
        True, (keys[order][1:] != keys[order][:-1]) | (owner[order][1:] != owner[order][:-1])
    )
    numbers = np.empty(len(keys), dtype=np.int64)
    numbers[order] = np.cumsum(new) - 1
    return numbers


def _joined(kinds: list[np.ndarray]) -> np.ndarray:
    """Rows that agree in any kind are one, and so are those that agree with them, int64 [n].

    Each row takes the lowest label of its group, kind after kind, until nothing changes.
    """
    labels = kinds[0]
    while True:
        before = labels
        for kind in kinds:
            lowest = np.full(int(kind.max(initial=-1)) + 1, len(kind), dtype=np.int64)
            np.minimum.at(lowest, kind, labels)
            labels = lowest[kind]
        if np.array_equal(before, labels):
            return labels
