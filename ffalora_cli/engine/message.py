"""Turns a job into bytes and back, for the other processes of a run: tensors and JSON, no pickles.

What is the same for all clients goes once, and not again to who has it already.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from ffalora_cli.engine.job import ExamplePrivacy, LocalJob, LocalOptimizer, StepBatches
from ffalora_cli.keys import Key, SecureKey
from ffalora_cli.types import Stack, Tensors

_FACTS = "facts"


@dataclass
class Outbox:
    """Packs messages for the same receivers, who keep every ``lasting`` tensor that they got."""

    _marks: dict[str, bytes] = field(default_factory=dict)

    def pack(self, facts: Mapping[str, Any], once: Tensors, lasting: Tensors) -> bytes:
        """A message of JSON values, tensors for this time, and tensors for this and later ones."""
        marks = {name: _mark(value) for name, value in lasting.items()}
        new = {n: v for n, v in lasting.items() if self._marks.get(n) != marks[n]}
        self._marks |= marks
        head = torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)
        return save({n: v.contiguous().clone() for n, v in {**once, **new, _FACTS: head}.items()})


@dataclass
class Inbox:
    """Unpacks the messages of an ``Outbox``, in their order."""

    _kept: Tensors = field(default_factory=dict)

    def unpack(self, message: bytes) -> tuple[dict[str, Any], Tensors]:
        """Facts, the tensors of this message, and the lasting ones of earlier messages."""
        tensors = load(message)
        facts: dict[str, Any] = json.loads(tensors.pop(_FACTS).numpy().tobytes())
        self._kept |= {n: v for n, v in tensors.items() if n.startswith("plain/")}
        return facts, tensors | self._kept


def job_parts(job: LocalJob) -> tuple[dict[str, Any], Tensors, Tensors]:
    """A job as facts, tensors of this time, and tensors that other jobs may have, too."""
    privacy = job.privacy
    facts = {
        "round": job.round,
        "clients": job.clients.tolist(),
        "shared": [n for n, v in job.start.items() if v.stride(0) == 0],
        "own": [n for n, v in job.start.items() if v.stride(0) != 0],
        "common": list(job.common),
        "trainable": job.trainable,
        "optimizer": asdict(job.optimizer),
        "privacy": privacy and [privacy.max_grad_norm, privacy.clip, _key(privacy.secret)],
        "dropout": [job.dropout, job.model_dropout, _key(job.dropout_key)],
        "max_tokens": job.max_tokens,
        "steps": [step.units is not None for step in job.batches],
        "extents": None if job.extents is None else list(job.extents),
    }
    once: dict[str, Any] = {f"extent/{n}": v for n, v in (job.extents or {}).items()}
    if privacy is not None:
        once |= {"noise_sd": privacy.noise_sd, "expected_batch": privacy.expected_batch}
    for number, step in enumerate(job.batches):
        once |= {f"step/{number}/{n}": v for n, v in vars(step).items() if v is not None}
    tensors = {n: torch.from_numpy(np.ascontiguousarray(v)) for n, v in once.items()}
    tensors |= {f"own/{n}": job.start[n] for n in facts["own"]}
    plain = {n: job.start[n][0] for n in facts["shared"]} | job.common
    return facts, tensors, named("plain", plain)


def job_of(facts: Mapping[str, Any], tensors: Tensors) -> LocalJob:
    """The job of these parts; nobody stops it."""
    count, privacy = len(facts["clients"]), facts["privacy"]
    dropout, of_model, key = facts["dropout"]
    start: Stack = {n: tensors[f"own/{n}"] for n in facts["own"]}
    for name in facts["shared"]:
        value = tensors[f"plain/{name}"]
        start[name] = value.expand(count, *value.shape)
    arrays = {n: v.numpy() for n, v in tensors.items() if n.startswith(("step/", "extent/"))}
    batches = [
        StepBatches(*(arrays[f"step/{i}/{n}"] for n in ("slots", "rows", "units")[: 2 + units]))
        for i, units in enumerate(facts["steps"])
    ]
    if privacy is not None:
        numbers = (tensors["noise_sd"].numpy(), tensors["expected_batch"].numpy())
        privacy = ExamplePrivacy(privacy[0], *numbers, _of_key(privacy[2]), privacy[1])
    names = facts["extents"]
    return LocalJob(
        round=facts["round"],
        clients=np.array(facts["clients"], np.int64),
        batches=batches,
        start=start,
        common={n: tensors[f"plain/{n}"] for n in facts["common"]},
        trainable=tuple(facts["trainable"]),
        optimizer=LocalOptimizer(**facts["optimizer"]),
        privacy=privacy,
        dropout=dropout,
        model_dropout=of_model,
        dropout_key=_of_key(key),
        max_tokens=facts["max_tokens"],
        extents=None if names is None else {n: arrays[f"extent/{n}"] for n in names},
    )


def named(group: str, tensors: Tensors) -> Tensors:
    """Tensors by names of a group."""
    return {f"{group}/{name}": value for name, value in tensors.items()}


def _mark(value: torch.Tensor) -> bytes:
    """A hash of a tensor's values: a reference would not notice a change in place."""
    return hashlib.blake2b(value.detach().contiguous().numpy().tobytes(), digest_size=16).digest()


def _key(key: Key) -> list[Any]:
    return [key.hex(), isinstance(key, SecureKey)]


def _of_key(value: list[Any]) -> Key:
    raw = bytes.fromhex(value[0])
    return SecureKey(raw) if value[1] else raw
