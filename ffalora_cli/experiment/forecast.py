"""What a run will do, before it does anything: clients, privacy, bytes, parameters, time, disk.

Nothing is written but caches. Jobs of a sweep share what is the same for them: a step is measured
once for all jobs whose steps cost the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ffalora_cli.config.build import to_plain
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import Config
from ffalora_cli.config.signature import digest
from ffalora_cli.experiment.measurement import Measurement, measure
from ffalora_cli.experiment.parts import Parts, build
from ffalora_cli.records.checkpoint import KEPT
from ffalora_cli.types import Kind

if TYPE_CHECKING:
    from ffalora_cli.federation.rehearsal import Rehearsed
    from ffalora_cli.privacy.plan import PrivacyPlan

KINDS: tuple[Kind, ...] = ("adapter", "head", "merge", "index", "seed", "setup", "framing")
_LISTED = 100  # clients listed one by one
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
}


class _Nobody:
    """An observer to whom nothing is told."""

    def note(self, text: str) -> None:
        """Not printed: what a plan has to say is in its result."""

    started = round_done = finished = note  # type: ignore[assignment]


@dataclass
class Forecaster:
    """Forecasts jobs one after another; what they share is done once.

    Attributes:
        measured: whether to train a few steps for time and memory.
    """

    measured: bool = True
    _costs: dict[str, Measurement] = field(default_factory=dict)

    def forecast(self, config: Config, signature: str) -> dict[str, Any]:
        """Everything that is known of one run before it starts, as JSON values.

        Args:
            config: checked.
            signature: of the run; its cohorts are drawn from it.

        Raises:
            ConfigError: a budget that cannot be, data that cannot be had; with the nearest remedy.
        """
        from ffalora_cli.federation.rehearsal import rehearse

        parts = build(config, signature, _Nobody())
        seen = rehearse(parts.simulation)
        cost = self._cost(parts) if self.measured else None
        return {
            "clients": _clients(parts),
            "sampling": _sampling(parts),
            "privacy": None if parts.plan is None else _privacy(parts.plan),
            "communication": _communication(seen, config),
            "parameters": _parameters(parts),
            "rounds": {"asked": config.federation.rounds, "planned": seen.rounds},
            "time": None if cost is None else _time(parts, seen, cost),
            "memory": None if cost is None else {"peak_bytes": cost.peak_bytes},
            "disk": _disk(parts, seen),
            "device": str(parts.simulation.network.device),
            "warnings": list(parts.plan.warnings) if parts.plan else [],
        }

    def _cost(self, parts: Parts) -> Measurement:
        key = _cost_key(parts.config)
        if key not in self._costs:
            self._costs[key] = measure(parts)
        return self._costs[key]


def _cost_key(config: Config) -> str:
    """Equal for configurations whose steps cost the same."""
    plain = to_plain(config)
    for key, value in _NO_COST.items():
        *sections, last = key.split(".")
        node = plain
        for section in sections:
            node = node[section]
        node[last] = value
    return digest(plain)


def _spread(values: np.ndarray) -> dict[str, float | int]:
    """Least, middle and most, of real members where the values are counts."""
    middle = np.quantile(values, 0.5, method="higher")
    return {"min": values.min().item(), "median": middle.item(), "max": values.max().item()}


def _clients(parts: Parts) -> dict[str, Any]:
    sizes, counts = parts.simulation.clients.sizes, parts.label_counts
    few = len(sizes) <= _LISTED
    return {
        "number": len(sizes),
        "rows": _spread(sizes) | {"total": int(sizes.sum())},
        "labels": list(parts.config.task.classes),
        "labels_of_a_client": _spread((counts > 0).sum(axis=1)),
        "rows_by_label": counts.sum(axis=0).tolist(),
        "each": [
            {"client": i, "rows": int(n), "rows_by_label": row.tolist()}
            for i, (n, row) in enumerate(zip(sizes, counts, strict=True))
        ]
        if few
        else None,
        "evaluated_rows": {name: len(rows) for name, rows in parts.data.evals.items()},
    }


def _sampling(parts: Parts) -> dict[str, Any]:
    """Of clients in a round and of rows in a step."""
    federation, sizes = parts.config.federation, parts.simulation.clients.sizes
    cohort = federation.cohort_size or federation.num_clients
    batch = np.minimum(federation.local_batch_size, sizes)
    example = parts.plan is not None and parts.plan.unit == "example"
    return {
        "cohort": {
            "scheme": federation.cohort_sampling,
            "size": cohort,
            "rate": cohort / federation.num_clients,
        },
        "rows": {
            "scheme": parts.plan.sampling if example and parts.plan else "epochs",
            "batch": federation.local_batch_size,
            "rate": _spread(batch / sizes),
        },
    }


def _privacy(plan: PrivacyPlan) -> dict[str, Any]:
    """The claim, and for the client with the largest epsilon what each accountant says."""
    from ffalora_cli.privacy.statement import sentence

    return {
        "sentence": sentence(plan),
        "unit": plan.unit,
        "relation": plan.relation,
        "delta": plan.delta,
        "sampling": plan.sampling,
        "accountant": plan.accountant,
        "max_grad_norm": plan.max_grad_norm,
        "epsilon_target": plan.epsilon_target,
        "epsilon_planned": _finite(plan.claim(plan.epsilon_planned)),
        "noise_multiplier": _spread(plan.noise_multiplier),
        "sample_rate": _spread(plan.sample_rate),
        "steps": _spread(plan.planned_steps),
        "largest": _accountants(plan),
    }


def _accountants(plan: PrivacyPlan) -> dict[str, Any]:
    """PLD and RDP side by side: epsilon of the planned noise, and the noise of the target."""
    from ffalora_cli.privacy.calibrate import noise_multiplier, stored_epsilon

    client = int(np.argmax(plan.epsilon_planned))
    noise, rate = float(plan.noise_multiplier[client]), float(plan.accounted_rate[client])
    steps, sampling, target = int(plan.planned_steps[client]), plan.sampling, plan.epsilon_target
    found: dict[str, Any] = {}
    for name in ("rdp",) if sampling == "fixed" else ("pld", "rdp"):
        how = (plan.delta, plan.interval, sampling)
        value = stored_epsilon(name, noise, rate, steps, *how)
        try:
            needed = target and noise_multiplier(name, target, how[0], rate, steps, *how[1:])
        except ConfigError:  # this accountant cannot prove it; the plan's own has
            needed = None
        found[name] = {"epsilon": _finite(value), "noise_multiplier_for_target": needed}
    return {
        "client": client,
        "steps": steps,
        "sample_rate": rate,
        "noise_multiplier": noise,
        "accountants": found,
    }


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else "inf"


def _communication(seen: Rehearsed, config: Config) -> dict[str, Any]:
    """Bytes of all clients by kind, and of the rounds: the second stands for those that follow."""
    ledger = seen.communication
    partial = config.federation.cohort_sampling != "full" or config.federation.dropout_rate > 0
    drawn = config.privacy.unit != "none" and config.privacy.noise == "secure" and partial
    directions = {}
    for way in ("uplink", "downlink"):
        per_round = [ledger.total(way, rounds=[r]) for r in range(1, seen.rounds + 1)]  # type: ignore[arg-type]
        directions[way] = {
            "total": ledger.total(way),  # type: ignore[arg-type]
            "by_kind": {k: n for k in KINDS if (n := ledger.total(way, [k]))},  # type: ignore[arg-type]
            "first_round": per_round[0] if per_round else 0,
            "median_round": int(np.median(per_round)) if per_round else 0,
            "largest_round": max(per_round, default=0),
        }
    sizes = ledger.per_client()
    return {
        **directions,
        "setup": ledger.total(None, ["seed", "setup"]),
        "per_client": {way: _spread(values) for way, values in sizes.items()},
        "participations": _spread(seen.participations),
        "exact": not drawn,
        "how": "packed payloads of every round, without values; cohorts as the run draws them"
        if not drawn
        else "packed payloads; cohorts as likely as the run's, whose secret does not exist yet",
    }


def _parameters(parts: Parts) -> dict[str, Any]:
    simulation, network = parts.simulation, parts.simulation.network
    return {
        "trainable": sum(spec.size for spec in simulation.trainable(1)),
        "personal": sum(s.size for s in network.specs if s.name in simulation.personal),
        "frozen": network.frozen_parameters,
        "adapted_layers": len(network.sites),
    }


def _time(parts: Parts, seen: Rehearsed, cost: Measurement) -> dict[str, Any]:
    """Seconds of training and of evaluation, with the share they may be off."""
    federation = parts.config.federation
    everybody = federation.cohort_size or federation.num_clients
    share = float(seen.participations.sum()) / max(seen.rounds * everybody, 1)
    each_round = cost.round_seconds + federation.local_steps * cost.step_seconds
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


def _disk(parts: Parts, seen: Rehearsed) -> dict[str, Any]:
    """Bytes in the run folder at its end, and in the cache of tokens."""
    state, sizes = seen.state, {s.name: 4 * s.size for s in parts.simulation.network.specs}
    adapter = _bytes(state.tensors) + _bytes(state.base_delta)
    who = int((seen.participations > 0).sum())
    personal = who * sum(sizes[name] for name in parts.simulation.personal)
    merges = sum(4 * (m.left.numel() + m.right.numel()) for m in state.merges)
    kept = min(KEPT + 1, seen.rounds + 1)  # the best beside the newest
    checkpoint = adapter + _bytes(state.optimizer) + merges + personal
    lines = _LINE * (seen.rounds + 1) + _LINE * int(seen.participations.sum())
    splits = (parts.data.train, *parts.data.evals.values())
    return {
        "run_folder": adapter + personal + kept * checkpoint + lines,
        "checkpoint": checkpoint,
        "checkpoints_kept": kept,
        "token_cache": sum(s.ids.nbytes + s.offsets.nbytes + 16 * len(s) for s in splits),
        "how": "tensors as they are stored; line files about "
        f"{_LINE} bytes a round and participation",
    }


def _bytes(tensors: Mapping[str, Any]) -> int:
    return sum(value.numel() * value.element_size() for value in tensors.values())
