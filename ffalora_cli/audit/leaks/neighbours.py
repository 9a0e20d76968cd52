"""Plays three runs that differ in one unit of privacy: as is, without it, other rows in it.

They are given the same secret, partition and hold-outs, so that whatever else differs between what
they publish is a function of that unit's rows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ffalora_cli import experiment
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.job import Job
from ffalora_cli.config.schema import Config
from ffalora_cli.config.splits import HOLDOUT
from ffalora_cli.data.dataset import TaskData
from ffalora_cli.data.encode import Encoded
from ffalora_cli.data.partition.partition import ClientRows
from ffalora_cli.experiment import population
from ffalora_cli.experiment.forecast.forecast import Nobody
from ffalora_cli.experiment.parts import Given, pin
from ffalora_cli.keys import Key
from ffalora_cli.models.backbone import load_tokenizer

VARIANTS = ("as it is", "unit removed", "unit changed")
SCORED = 64  # rows of every evaluation split
OWNED = 16  # rows of a client, and no more than its batch: all are drawn in every step


@dataclass(frozen=True)
class Neighbour:
    """One of the three runs, finished.

    Attributes:
        variant: of ``VARIANTS``.
        folder: of its records.
    """

    variant: str
    folder: Path


def play_neighbours(job: Job, secret: Key, within: Path) -> list[Neighbour]:
    """Run a job on its own data and on two neighbouring data sets.

    Args:
        job: short.
        secret: of all three runs.
        within: folder for their records.

    Raises:
        ConfigError: the configuration cannot be run here.
    """
    played = []
    for variant, given in zip(VARIANTS, _given(job.config, secret), strict=True):
        folder = within / variant.replace(" ", "-") / f"audit-{job.signature}"  # the same run id
        folder.parent.mkdir(parents=True)
        one = Job(job.config, folder=folder)  # its manifest names no command
        experiment.run(one, Nobody(), given=given)
        played.append(Neighbour(variant, folder))
    return played


def _given(config: Config, secret: Key) -> list[Given]:
    """What each of ``VARIANTS`` is handed."""
    config = pin(config, Nobody())
    data, people = population.load(config, load_tokenizer(config.model))
    data = replace(
        data,
        evals={
            name: rows.take(np.arange(min(SCORED, len(rows)))) for name, rows in data.evals.items()
        },
    )
    owned = min(OWNED, config.federation.local_batch_size)
    data, clients = _few(data, people.clients, owned)
    gone = _unit(config.privacy.unit, data.train, clients)
    kept = np.setdiff1d(np.arange(len(data.train)), gone)
    changed = _changed(data.train, gone)
    owners = (clients, _without(clients, gone), clients)
    return [
        Given(secret, _with(data, train), replace(people, clients=owner))
        for train, owner in zip((data.train, data.train.take(kept), changed), owners, strict=True)
    ]


def _few(data: TaskData, clients: ClientRows, most: int) -> tuple[TaskData, ClientRows]:
    """At most so many rows of every client, spread over its rows: these may be sorted by label."""
    kept = np.sort(np.concatenate([_spread(clients.of(i), most) for i in range(len(clients))]))
    surplus = np.setdiff1d(np.arange(len(data.train)), kept)
    return replace(data, train=data.train.take(kept)), _without(clients, surplus)


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64))]


def _unit(unit: str, train: Encoded, clients: ClientRows) -> np.ndarray:
    """Rows of one unit, int64; of the largest client, and of no other.

    At unit ``client`` all rows but one: a client that is there in name must have one.
    """
    largest = int(clients.sizes.argmax())
    rows, numbers = clients.of(largest), clients.units_of(largest)
    if unit == "client":
        return rows[1:]
    elsewhere = np.setdiff1d(clients.rows, rows)
    for i in range(len(rows)):
        same = train.hashes[rows] == train.hashes[rows[i]]
        if numbers is not None:
            same = numbers == numbers[i]
        elif unit == "row":
            same = np.arange(len(rows)) == i
        if (
            same.sum() < len(rows)
            and not np.isin(train.hashes[rows[same]], train.hashes[elsewhere]).any()
        ):
            return rows[same]
    raise ConfigError("audit: the largest client is one unit, or shares all its texts with others")


def _without(clients: ClientRows, gone: np.ndarray) -> ClientRows:
    """The same owners of fewer rows, numbered anew."""
    stays = ~np.isin(clients.rows, gone)
    owner = np.repeat(np.arange(len(clients)), clients.sizes)[stays]
    units = None
    if clients.units is not None:
        told = [clients.units[stays][owner == client] for client in np.unique(owner)]
        units = np.concatenate([np.unique(one, return_inverse=True)[1] for one in told])
    moved = clients.rows[stays]
    return replace(
        clients,
        rows=moved - np.searchsorted(np.sort(gone), moved),
        offsets=np.searchsorted(owner, np.arange(len(clients) + 1)),
        units=units,
    )


def _changed(train: Encoded, rows: np.ndarray) -> Encoded:
    """Rows with other tokens, where there are several one fewer, and another target."""
    ids, values = np.array(train.ids), np.array(train.targets.values)
    told: dict[str, Any] = {
        n: np.array(getattr(train, n)) for n in ("hashes", "text_keys", "sequence_keys")
    }
    for row in rows:
        inner = slice(train.offsets[row] + 1, train.offsets[row + 1] - 1)
        ids[inner] = np.roll(ids[inner][::-1], 1)
    places, _ = train.targets.index(rows)
    values[places] = (values[places] + 1) % (values.max() + 1)
    for keys in told.values():  # other texts, and rows of one text stay rows of one text
        keys[rows] ^= np.uint64(2**63 - 1)
    shorter = rows[train.lengths[rows] > 3]
    dropped = train.offsets[shorter + 1] - 2  # the last token but the separator
    lengths = np.array(train.lengths, dtype=np.int64)
    lengths[shorter] -= 1
    ids = np.delete(ids, dropped)
    content = hashlib.blake2b(ids.tobytes() + values.tobytes(), digest_size=16).hexdigest()
    return replace(
        train,
        ids=ids,
        type_ids=None if train.type_ids is None else np.delete(train.type_ids, dropped),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        targets=replace(train.targets, values=values),
        fingerprint=content,
        **told,
    )


def _with(data: TaskData, train: Encoded) -> TaskData:
    """The same hold-outs beside other training rows; what is hashed from those is hashed anew."""
    evals = dict(data.evals)
    if HOLDOUT in evals:
        mixed = (evals[HOLDOUT].fingerprint + train.fingerprint).encode()
        made = hashlib.blake2b(mixed, digest_size=16).hexdigest()
        evals[HOLDOUT] = replace(evals[HOLDOUT], fingerprint=made)
    counts = np.unique(train.targets.values, return_counts=True)[1].tolist()
    about = {"rows": len(train), "tokens": int(train.offsets[-1]), "fingerprint": train.fingerprint}
    facts = {**data.facts, "train": {**data.facts["train"], **about, "labels": counts}}
    facts["evals"] = {
        name: {**facts["evals"][name], "fingerprint": rows.fingerprint}
        | {"rows_also_in_train": int(np.isin(rows.hashes, train.hashes).sum())}
        for name, rows in evals.items()
    }
    return replace(data, train=train, evals=evals, facts=facts)
