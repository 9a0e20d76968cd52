"""One run on several processes: rank 0 has the run, the others train and score their share of it.

Folder, ledger, secret, tracker and screen are rank 0's alone. Before each round, and each set of
tensors to be scored, it tells the others what in one message; between messages they only wait.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.errors import ConfigError, one_line
from ffalora_cli.config.job import Job
from ffalora_cli.config.schema import Config
from ffalora_cli.engine.message import Inbox, Outbox, job_of, job_parts, named
from ffalora_cli.engine.ranks import Ranks
from ffalora_cli.experiment import identity
from ffalora_cli.experiment.forecast.forecast import Nobody
from ffalora_cli.stopping import Poll, never
from ffalora_cli.tasks.targets import Scored

if TYPE_CHECKING:
    from ffalora_cli.engine.generate import Told
    from ffalora_cli.engine.job import LocalJob, LocalResult
    from ffalora_cli.experiment.parts import Parts
    from ffalora_cli.models.network import Network
    from ffalora_cli.types import Examples, Tensors

_NAMED = 3  # differences spelled out in an error


def begin(ranks: Ranks, config: Config, manifest: Mapping[str, Any] | None) -> None:
    """On rank 0: the others may build their parts, with what was chosen when the run began.

    Raises:
        ConfigError: for what several processes cannot share; nothing was loaded yet.
    """
    check(config, ranks.world)
    ranks.tell(json.dumps(manifest or {}).encode())


def check(config: Config, world: int) -> None:
    """Refuse an engine or device of one process, and a secret that would leave this machine."""
    engine = config.engine
    if engine.name != "stacked":
        raise ConfigError(
            f"engine.name={engine.name} trains in one process, and there are {world}; use "
            "engine=stacked, or run without torchrun"
        )
    if engine.device.startswith("cuda:"):
        raise ConfigError(
            f"engine.device={engine.device} is one GPU for {world} processes; use "
            "engine.device=cuda: each takes the GPU of its LOCAL_RANK"
        )
    one_host = os.environ.get("LOCAL_WORLD_SIZE") == str(world)
    if config.privacy.noise == "secure" and not one_host and not engine.share_secret:
        raise ConfigError(
            "privacy.noise=secure: its secret would cross the network to the other machines of "
            "this run; allow it with engine.share_secret=true, or use one machine"
        )


def lead(ranks: Ranks, parts: Parts, resolved: Mapping[str, Any]) -> None:
    """On rank 0, with the parts built: from now on the work of ``parts`` is shared.

    Raises:
        ConfigError: a rank has other data, weights, versions or settings, or could not begin.
    """
    own = {"identity": identity.identity(parts, resolved)}
    _compare([json.loads(text) for text in ranks.gather(json.dumps(own).encode())])
    leader = Leader(ranks, parts)
    parts.simulation.engine, parts.predict = leader, leader.predict
    parts.write = parts.write and leader.write


def _compare(answers: list[dict[str, Any]]) -> None:
    for rank, answer in enumerate(answers):
        if "error" in answer:
            raise ConfigError(f"rank {rank} could not begin: {answer['error']}")
        different = identity.changes(answers[0]["identity"], answer["identity"])
        if different:
            raise ConfigError(
                f"rank {rank} is not of the same run as rank 0: {', '.join(different[:_NAMED])}; "
                "start all with the same command, files and versions"
            )


class Leader:
    """Engine of rank 0: tells the others what is to be done, then does its own share."""

    def __init__(self, ranks: Ranks, parts: Parts) -> None:
        self._ranks, self._outbox = ranks, Outbox()
        self._engine, self._predict = parts.simulation.engine, parts.predict
        self._write = parts.write
        self._network, self._evals = parts.simulation.network, list(parts.data.evals.values())
        self._merged: Tensors = {}

    def train(self, job: LocalJob) -> LocalResult:
        """One round of local training on all ranks."""
        self._tell("train", *job_parts(job))
        return self._engine.train(job)

    def predict(
        self,
        network: Network,
        examples: Examples,
        values: Tensors,
        max_tokens: int,
        poll: Poll = never,
    ) -> Scored:
        """``engine.evaluate.predict`` on all ranks."""
        split = next(i for i, rows in enumerate(self._evals) if rows is examples)
        facts = {"split": split, "max_tokens": max_tokens, "names": list(values)}
        self._tell("predict", facts, {}, named("plain", values))
        return self._predict(network, examples, values, max_tokens, poll)

    def write(self, values: Tensors, poll: Poll, told: Told) -> list[list[int]]:
        """``engine.generate.generate`` on all ranks."""
        assert self._write is not None
        self._tell("write", {"names": list(values)}, {}, named("plain", values))
        return self._write(values, poll, told)

    def _tell(self, what: str, facts: dict[str, Any], once: Tensors, lasting: Tensors) -> None:
        """One message; what was merged into the base weights since the last goes with it."""
        now = self._network.base_delta
        once |= named("base", {n: v for n, v in now.items() if self._merged.get(n) is not v})
        self._merged = dict(now)
        self._ranks.tell(self._outbox.pack({"do": what, **facts}, once, lasting))


def serve(ranks: Ranks, job: Job | ConfigError) -> None:
    """The part of a rank above 0, until rank 0 ends it; nothing is printed or written.

    Args:
        ranks: joined.
        job: of this process's own command line, or why there is none.

    Raises:
        RunFailed: rank 0 is gone.
    """
    from ffalora_cli.experiment.parts import build

    chosen = ranks.tell()
    if not chosen:
        return
    parts: Parts | None = None
    try:
        if isinstance(job, ConfigError):
            raise job
        config = identity.keep_choices(job.config, json.loads(chosen))
        parts = build(config, job.draw_signature, Nobody(), ranks=ranks)
        answer = {"identity": identity.identity(parts, job.resolved)}
    except Exception as error:  # whatever it is, rank 0 says it
        answer = {"error": one_line(f"{type(error).__name__}: {error}")}
    ranks.gather(json.dumps(answer).encode())
    if parts is not None:
        follow(ranks, parts)


def follow(ranks: Ranks, parts: Parts) -> None:
    """Do what rank 0 says, message by message."""
    inbox, simulation, evals = Inbox(), parts.simulation, list(parts.data.evals.values())
    while message := ranks.tell():
        facts, tensors = inbox.unpack(message)
        merged = {n: v for n, v in tensors.items() if n.startswith("base/")}
        simulation.network.add_to_base({n.removeprefix("base/"): v for n, v in merged.items()})
        if facts["do"] == "train":
            simulation.engine.train(job_of(facts, tensors))
            continue
        values = {n: tensors[f"plain/{n}"] for n in facts["names"]}
        if facts["do"] == "write":
            assert parts.write is not None
            parts.write(values)
        else:
            rows = evals[facts["split"]]
            parts.predict(simulation.network, rows, values, facts["max_tokens"])
