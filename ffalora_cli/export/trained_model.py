"""Reads the tensors a run ended with, or had after a round, and what one client kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ffalora_cli.config.errors import ConfigError, listed
from ffalora_cli.records.checkpoint import FOLDER, DamagedCheckpointError, read_checkpoint
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.records.run_directory import ADAPTER, CLIENTS
from ffalora_cli.records.summary import best_round
from ffalora_cli.tasks.registry import higher_is_better
from ffalora_cli.types import HEAD

if TYPE_CHECKING:
    from ffalora_cli.types import Tensors

_PERSONAL, _MERGE = "personal/", "merge."


@dataclass(frozen=True)
class TrainedModel:
    """What a round left behind.

    Attributes:
        round: after which these tensors stood.
        tensors: factors and head of the global model, by name.
        base_delta: dense change of the frozen weights, by site; ``[d_out, d_in]``.
        clients: ``ClientStates.to_tensors`` where something stays with the clients, else None.
    """

    round: int
    tensors: Tensors
    base_delta: Tensors
    clients: Tensors | None

    def values(self, initial: Tensors, client: int | None) -> Tensors:
        """Factors and head of the global model, or of one client's.

        Args:
            initial: tensors of round 0, from which a client starts that never took part.
            client: whose personal tensors to take.

        Raises:
            ConfigError: a client is needed and not given, given and not needed, or not there.
        """
        from ffalora_cli.federation.cohort.clients import ClientStates

        if self.clients is None:
            if client is not None:
                raise ConfigError(
                    f"--client {client}: nothing of this run stays with its clients, all have the "
                    "global model; leave --client out"
                )
            return {**initial, **self.tensors}
        names = [n.removeprefix(_PERSONAL) for n in self.clients if n.startswith(_PERSONAL)]
        last = len(self.clients["last_round"]) - 1
        if client is None or not 0 <= client <= last:
            parts = (name.split(".") for name in names)
            kinds = sorted({HEAD if part[0] == HEAD else part[-1] for part in parts})
            raise ConfigError(
                f"--client {'is missing' if client is None else client}: {' and '.join(kinds)} "
                f"stay with each client, so there is no common model; give --client 0 to {last}"
            )
        stacks = ClientStates.from_tensors(self.clients).gather(np.array([client]), names, initial)
        return {**initial, **self.tensors, **{name: stack[0] for name, stack in stacks.items()}}


def read_model(records: RunRecords, which: str, headline: str) -> TrainedModel:
    """The model of a round.

    Args:
        records: of the run.
        which: ``last``, ``best`` (by ``headline``) or a round's number.
        headline: metric key a best round is chosen by.

    Raises:
        ConfigError: its tensors are not there or damaged; says which rounds are.
    """
    last = records.rounds[-1].round if records.rounds else 0
    if which == "best":
        found = best_round(records.rounds, headline, higher_is_better(headline))
        if found is None:
            raise ConfigError(f"--round best: no round has {headline}; use --round last")
        wanted = int(found["round"])
    elif which == "last":
        wanted = last
    elif which.isdecimal():
        wanted = int(which)
    else:
        raise ConfigError(f"--round {which} should be last, best or a number, e.g. {last}")
    if wanted == last and (records.path / ADAPTER).is_file():
        return _final(records.path, wanted)
    return _earlier(records.path, wanted)


def _final(folder: Path, round: int) -> TrainedModel:
    """From the files a run ends with."""
    stored = _load(folder / ADAPTER)
    delta = {n.removeprefix(_MERGE): v for n, v in stored.items() if n.startswith(_MERGE)}
    tensors = {n: v for n, v in stored.items() if not n.startswith(_MERGE)}
    clients = _load(folder / CLIENTS) if (folder / CLIENTS).is_file() else None
    return TrainedModel(round, tensors, delta, clients)


def _earlier(folder: Path, round: int) -> TrainedModel:
    """From a checkpoint."""
    there = sorted(int(f.name.rpartition("-")[2]) for f in (folder / FOLDER).glob("round-*"))
    if round not in there:
        rounds = f"rounds {listed(there)} are" if there else "no round's are"
        remedy = "choose one of them with --round" if there else "run it again with --again"
        raise ConfigError(
            f"{folder}: the weights of round {round} are not there, {rounds}; {remedy}"
        )
    try:
        checkpoint = read_checkpoint(folder / FOLDER / f"round-{round:06d}")
    except DamagedCheckpointError as error:
        raise ConfigError(
            f"{folder}: checkpoint of round {round} is damaged ({error}); choose another --round"
        ) from None
    groups: dict[str, Tensors] = {"tensors": {}, "delta": {}, "clients": {}}
    for name, value in checkpoint.tensors.items():
        group, _, rest = name.partition("/")
        if group in groups:
            groups[group][rest] = value
    personal = any(name.startswith(_PERSONAL) for name in groups["clients"])
    clients = groups["clients"] if personal else None
    return TrainedModel(round, groups["tensors"], groups["delta"], clients)


def _load(file: Path) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: Tensors = load_file(file)
    except (OSError, SafetensorError):
        raise ConfigError(f"{file}: damaged, not safetensors; run it again with --again") from None
    return tensors
