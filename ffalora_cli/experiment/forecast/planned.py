"""Collects what is known of a run before it starts, as JSON values: one function a subject."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import Config
from ffalora_cli.federation.wire.ledger import Direction
from ffalora_cli.types import Kind

if TYPE_CHECKING:
    from ffalora_cli.experiment.parts import Parts
    from ffalora_cli.federation.rehearsal import Rehearsed
    from ffalora_cli.privacy.planning.plan import PrivacyPlan

KINDS: tuple[Kind, ...] = ("adapter", "head", "merge", "index", "seed", "setup", "framing")
WAYS: tuple[Direction, ...] = ("uplink", "downlink")
_LISTED = 100  # clients listed one by one


def clients(parts: Parts) -> dict[str, Any]:
    """Rows, units and labels of every client (of few), and of all."""
    held, counts, names = parts.simulation.clients, parts.strata_counts, parts.names
    sizes, units = held.sizes, held.num_units
    few = len(sizes) <= _LISTED
    return {
        "number": len(sizes),
        "rows": spread(sizes) | {"total": int(sizes.sum())},
        "units": spread(units) | {"total": int(units.sum())},
        "labels": list(parts.strata_names),
        "labels_of_a_client": spread((counts > 0).sum(axis=1)),
        "rows_by_label": counts.sum(axis=0).tolist(),
        "each": [
            {
                "client": i,
                "name": None if names is None else names[i],
                "rows": int(sizes[i]),
                "units": int(units[i]),
                "rows_by_label": counts[i].tolist(),
            }
            for i in range(len(sizes))
        ]
        if few
        else None,
        "evaluated_rows": {name: len(rows) for name, rows in parts.data.evals.items()},
    }


def sampling(parts: Parts) -> dict[str, Any]:
    """Of clients in a round and of rows (under privacy, of units) in a step."""
    federation, held = parts.config.federation, parts.simulation.clients
    cohort = federation.cohort_size or len(held)
    sizes = held.num_units
    batch = np.minimum(federation.local_batch_size, sizes)
    example = parts.plan is not None and parts.plan.inside_clients
    return {
        "cohort": {
            "scheme": federation.cohort_sampling,
            "size": cohort,
            "rate": cohort / len(held),
        },
        "rows": {
            "scheme": parts.plan.accountant.sampling if example and parts.plan else "epochs",
            "of": "rows" if held.units is None else "units",
            "batch": federation.local_batch_size,
            "rate": spread(batch / sizes),
        },
    }


def privacy(plan: PrivacyPlan) -> dict[str, Any]:
    """The claim, and for the client with the largest epsilon what each accountant says."""
    from ffalora_cli.privacy.claim.statement import sentence

    return {
        "sentence": sentence(plan),
        "unit": plan.unit,
        "relation": plan.relation,
        "delta": plan.accountant.delta,
        "sampling": plan.accountant.sampling,
        "accountant": plan.accountant.name,
        "max_grad_norm": plan.max_grad_norm,
        "epsilon_target": plan.epsilon_target,
        "epsilon_planned": _finite(plan.epsilon_claimed),
        "noise_multiplier": spread(plan.noise_multiplier),
        "sample_rate": spread(plan.sample_rate),
        "steps": spread(plan.planned_steps),
        "largest": _accountants(plan),
    }


def _accountants(plan: PrivacyPlan) -> dict[str, Any]:
    """PLD and RDP side by side: epsilon of the planned noise, and the noise of the target."""
    client = int(np.argmax(plan.epsilon_planned))
    noise, rate = float(plan.noise_multiplier[client]), float(plan.accounted_rate[client])
    steps, target = int(plan.planned_steps[client]), plan.epsilon_target
    found: dict[str, Any] = {}
    for one in plan.accountant.beside:
        value = one.stored([(noise, rate, steps)])
        try:
            needed = target and one.noise_for(target, rate, steps)
        except ConfigError:  # this accountant cannot prove it; the plan's own has
            needed = None
        found[one.name] = {"epsilon": _finite(value), "noise_multiplier_for_target": needed}
    return {
        "client": client,
        "steps": steps,
        "sample_rate": rate,
        "noise_multiplier": noise,
        "accountants": found,
    }


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else "inf"


def communication(seen: Rehearsed, config: Config) -> dict[str, Any]:
    """Bytes of all clients by kind, and of the rounds: the second stands for those that follow."""
    ledger = seen.communication
    partial = config.federation.cohort_sampling != "full" or config.federation.dropout_rate > 0
    drawn = config.privacy.unit != "none" and partial  # by a secret that no plan knows
    directions: dict[str, Any] = {}
    for way in WAYS:
        per_round = ledger.by_round(way, seen.rounds)
        directions[way] = {
            "total": ledger.total(way),
            "by_kind": {k: n for k in KINDS if (n := ledger.total(way, [k]))},
            "first_round": ledger.total(way, rounds=[1]),
            "median_round": int(np.median(per_round)) if len(per_round) else 0,
            "largest_round": int(per_round.max(initial=0)),
        }
    sizes = ledger.per_client()
    budget = config.federation.budget_megabytes
    return {
        **directions,
        "budget": budget and int(1e6 * budget),
        "setup": ledger.total(None, ["seed", "setup"]),
        "per_client": {way: spread(values) for way, values in sizes.items()},
        "participations": spread(seen.participations),
        "exact": not drawn and seen.exact,
        "how": _how(drawn, seen.exact),
    }


def _how(drawn: bool, exact: bool) -> str:
    if not exact:
        return "packed payloads of some thousand rounds with drawn cohorts, the others as those"
    if drawn:
        return "packed payloads; cohorts as likely as the run's, whose secret does not exist yet"
    return "packed payloads of every round, without values; cohorts as the run draws them"


def parameters(parts: Parts) -> dict[str, Any]:
    """Elements that are trained in round 1, kept by their client, and frozen."""
    simulation, network = parts.simulation, parts.simulation.network
    return {
        "trainable": sum(spec.size for spec in simulation.trained(1)),
        "personal": sum(s.size for s in network.specs if s.name in simulation.personal),
        "frozen": network.frozen_parameters,
        "adapted_layers": len(network.sites),
    }


def memory(parts: Parts, peak_bytes: int | None) -> dict[str, Any]:
    """Bytes of what a step holds at once, by what it is for, and what was measured.

    A cohort's adapters stand for its largest chunk; of its tensors as many as the optimiser keeps.
    """
    from ffalora_cli.engine import memory
    from ffalora_cli.federation.round import CHUNK_BYTES

    network, federation = parts.simulation.network, parts.config.federation
    trained = 4 * sum(spec.size for spec in parts.simulation.trained(1))
    clients = federation.cohort_size or len(parts.simulation.clients)
    stack = min(clients * trained, max(CHUNK_BYTES, trained))
    moments = 2 if federation.local_optimizer == "adamw" else int(federation.local_momentum > 0)
    tokens = parts.max_tokens
    by_kind = {
        "weights": memory.weight_bytes(network.plain, parts.config.engine.precision),
        "adapters": 2 * stack,  # values and sums of gradients
        "optimizer": moments * stack,
        "activations": tokens * memory.kept_bytes(network),
        "copies": memory.copy_bytes(network, tokens),
        "scores": memory.score_bytes(network),
    }
    return {
        "by_kind": by_kind,
        "total": sum(by_kind.values()),
        "max_tokens": tokens,
        "token_bytes": memory.kept_bytes(network),
        "recomputes": network.recomputes,
        "free_bytes": memory.free_memory(network.device),
        "peak_bytes": peak_bytes,
    }


def spread(values: np.ndarray) -> dict[str, float | int]:
    """Least, middle and most, of real members where the values are counts."""
    middle = np.quantile(values, 0.5, method="higher")
    return {"min": values.min().item(), "median": middle.item(), "max": values.max().item()}
