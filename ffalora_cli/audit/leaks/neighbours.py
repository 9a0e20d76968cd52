"""Plays three runs that differ in one unit of privacy: as is, without it, other rows in it.

They are given the same secret, partition and hold-outs, so that whatever else differs between what
they publish is a function of that unit's rows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ffalora_cli import experiment
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.job import Job
from ffalora_cli.config.schema import Config, TaskConfig
from ffalora_cli.config.splits import HOLDOUT
from ffalora_cli.data.dataset import Ready, TaskData, describe
from ffalora_cli.data.partition.partition import ClientRows
from ffalora_cli.experiment import population
from ffalora_cli.experiment.forecast.forecast import Nobody
from ffalora_cli.experiment.parts import Given, pin
from ffalora_cli.keys import Key
from ffalora_cli.models.processor import load_processor
from ffalora_cli.tasks import registry

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
    data, people = population.load(config, load_processor(config.model, config.task))
    evals = {
        name: rows.take(np.arange(min(SCORED, len(rows)))) for name, rows in data.evals.items()
    }
    data = replace(data, evals=evals)
    kept, clients = _few(people.clients, min(OWNED, config.federation.local_batch_size))
    whole, train = data.train, data.train.take(kept)
    gone = _unit(config.privacy.unit, train, clients)
    stays = np.setdiff1d(np.arange(len(train)), gone)
    strata, _ = registry.strata(config.task, whole.targets)
    trains = (train, train.take(stays), _changed(whole, kept, gone, strata))
    owners = (clients, _without(clients, gone), clients)
    return [
        Given(secret, _with(data, one, config.task), replace(people, clients=owner))
        for one, owner in zip(trains, owners, strict=True)
    ]


def _few(clients: ClientRows, most: int) -> tuple[np.ndarray, ClientRows]:
    """At most so many rows of every client, spread over its rows: these may be sorted by label.

    Returns:
        Their numbers, int64 ascending, and the clients with rows numbered among them.
    """
    kept = np.sort(np.concatenate([_spread(clients.of(i), most) for i in range(len(clients))]))
    surplus = np.setdiff1d(np.arange(int(clients.rows.max()) + 1), kept)
    return kept, _without(clients, surplus)


def _spread(rows: np.ndarray, most: int) -> np.ndarray:
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64))]


def _unit(unit: str, train: Ready, clients: ClientRows) -> np.ndarray:
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


def _changed(whole: Ready, kept: np.ndarray, gone: np.ndarray, strata: np.ndarray) -> Ready:
    """The kept rows with one other row in the place of each of a unit's.

    Args:
        whole: the training set.
        kept: its rows that clients have.
        gone: the unit, as places in ``kept``.
        strata: of all rows ``[rows]``.

    Raises:
        ConfigError: nobody's row is another text.
    """
    ours = kept[gone]
    others = np.setdiff1d(np.arange(len(whole)), kept)
    others = others[~np.isin(whole.hashes[others], whole.hashes[kept])]
    if not len(others):
        raise ConfigError("audit: no row is left to put in a unit's place; take a larger data set")
    unlike = (strata[others] != strata[ours[0]]).astype(np.int64)
    unlike += whole.lengths[others] * len(ours) != whole.lengths[ours].sum()
    rows = kept.copy()
    rows[gone] = others[unlike.argmax()]
    return replace(
        whole.take(rows),
        clients=None if whole.clients is None else whole.clients[kept],
        unit_keys=None if whole.unit_keys is None else whole.unit_keys[kept],
    )


def _with(data: TaskData, train: Ready, task: TaskConfig) -> TaskData:
    """The same hold-outs beside other training rows; what is hashed from those is hashed anew."""
    evals = dict(data.evals)
    if HOLDOUT in evals:
        mixed = (evals[HOLDOUT].fingerprint + train.fingerprint).encode()
        made = hashlib.blake2b(mixed, digest_size=16).hexdigest()
        evals[HOLDOUT] = replace(evals[HOLDOUT], fingerprint=made)
    length = data.facts["max_length"]
    facts = {**data.facts, "train": {**data.facts["train"], **describe(train, task, length)}}
    facts["evals"] = {
        name: {**facts["evals"][name], "fingerprint": rows.fingerprint}
        | {"rows_also_in_train": int(np.isin(rows.hashes, train.hashes).sum())}
        for name, rows in evals.items()
    }
    return replace(data, train=train, evals=evals, facts=facts)
