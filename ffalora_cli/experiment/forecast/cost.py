"""Computes what a run costs: seconds from a measurement, bytes on disk from shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ffalora_cli.config.build import to_plain
from ffalora_cli.config.schema import Config
from ffalora_cli.config.signature import digest
from ffalora_cli.records.checkpoint import KEPT

if TYPE_CHECKING:
    from ffalora_cli.experiment.forecast.measurement import Measurement
    from ffalora_cli.experiment.parts import Parts
    from ffalora_cli.federation.rehearsal import Rehearsed

_RECORDS = 20_000  # bytes of configuration, manifest, privacy statement and summary
_LINE = 400  # bytes of a round's lines on disk, and as many again for each client of it

# What does not change how long a step takes: seeds, budgets, and how often steps are taken.
_NO_COST: Mapping[str, Any] = {
    "seed": 0,
    "name": "",
    "adapter.seed": 0,
    "head.seed": 0,
    "partition.seed": 0,
    "privacy.epsilon_target": None,
    "privacy.noise_multiplier": None,
    "privacy.delta": None,
    "privacy.accountant": "",
    "federation.rounds": 0,
    "federation.eval_every": 0,
    "federation.local_lr": 0,
    "federation.lr_schedule": "",
    "federation.warmup_rounds": 0,
    "federation.lr_end": 0,
}


def cost_key(config: Config) -> str:
    """Equal for configurations whose steps cost the same."""
    plain = to_plain(config)
    for key, value in _NO_COST.items():
        *sections, last = key.split(".")
        node = plain
        for section in sections:
            node = node[section]
        node[last] = value
    return digest(plain)


def time(parts: Parts, seen: Rehearsed, cost: Measurement) -> dict[str, Any]:
    """Seconds of training and of evaluation, with the share they may be off."""
    federation = parts.config.federation
    everybody = federation.cohort_size or len(parts.simulation.clients)
    share = float(seen.participations.sum()) / max(seen.rounds * everybody, 1)
    steps = federation.local_steps * parts.method.exchanges()
    each_round = cost.round_seconds + steps * cost.step_seconds
    training = seen.rounds * each_round * share
    tokens = sum(int(rows.lengths.sum()) for rows in parts.data.evals.values())
    first = int(next(iter(parts.data.evals.values())).lengths.sum())
    times = 1 + -(-seen.rounds // federation.eval_every)
    models = min(100, everybody) if parts.simulation.personal else int(federation.eval_clients)
    scored = times * tokens + (times - 1) * models * first
    evaluation = scored * cost.token_seconds
    return {
        "seconds": training + evaluation,
        "training": training,
        "evaluation": evaluation,
        "error": cost.error,
        "round": each_round,
        **{k: v for k, v in asdict(cost).items() if k in ("step_seconds", "steps", "how")},
    }


def disk(parts: Parts, seen: Rehearsed) -> dict[str, Any]:
    """Bytes in the run folder at its end, and in the cache of tokens."""
    state, sizes = seen.state, {s.name: 4 * s.size for s in parts.simulation.network.specs}
    delta = _bytes(state.base_delta)
    who = int((seen.participations > 0).sum())
    personal = who * sum(sizes[name] for name in parts.simulation.personal)
    merges = sum(4 * (m.left.numel() + m.right.numel()) for m in state.merges)
    kept = min(KEPT + 1, seen.rounds + 1)  # the best beside the newest
    checkpoint = _bytes(state.tensors) + delta + _bytes(state.optimizer) + merges + personal
    lines = _LINE * (seen.rounds + 1) + _LINE * int(seen.participations.sum())
    splits = (parts.data.train, *parts.data.evals.values())
    return {
        "run_folder": sum(sizes.values()) + delta + personal + kept * checkpoint + lines + _RECORDS,
        "checkpoint": checkpoint,
        "checkpoints_kept": kept,
        "token_cache": sum(split.stored_bytes for split in splits),
        "how": "tensors as they are stored; line files about "
        f"{_LINE} bytes a round and participation",
    }


def _bytes(tensors: Mapping[str, Any]) -> int:
    return sum(value.numel() * value.element_size() for value in tensors.values())
