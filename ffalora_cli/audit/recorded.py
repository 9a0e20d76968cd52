"""Checks what a run wrote down against its plan: charges, participants, uploads, epsilon."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ffalora_cli.audit.mechanism.accounting import not_below
from ffalora_cli.audit.outcome import Check, exact
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import Config
from ffalora_cli.privacy.planning.plan import PrivacyPlan

LEDGER = "privacy_ledger.jsonl"


def recorded_checks(folder: Path, config: Config, plan: PrivacyPlan) -> list[Check]:
    """Checks of a run's folder against the plan that its config leads to.

    Args:
        folder: of the run.
        config: as recorded there.
        plan: made anew from it, for all clients.

    Raises:
        ConfigError: the ledger is damaged or belongs to another plan, or the run cannot be read.
    """
    try:
        return _checks(folder, config, plan)
    except ConfigError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ConfigError(
            f"{folder}: its records are damaged ({type(error).__name__}), there is nothing to "
            "audit; audit the config alone, as in ffalora audit OVERRIDES"
        ) from error


def _checks(folder: Path, config: Config, plan: PrivacyPlan) -> list[Check]:
    from ffalora_cli.records.reading import read_communication, read_run

    run = read_run(folder)
    charges = read_charges(folder / LEDGER, plan)
    taken = sum(charges.values(), np.zeros(plan.num_clients, np.int64))
    uplink = [row for row in read_communication(folder) if row["direction"] == "uplink"]
    return [
        _charges(charges, uplink, plan),
        _totals(taken, plan),
        _epsilon(run.privacy, taken, plan),
        _uploads(folder, uplink, config),
    ]


def read_charges(path: Path, plan: PrivacyPlan) -> dict[int, np.ndarray]:
    """Steps charged to each client by round, int64 ``[clients]`` each; the file is only read.

    Raises:
        ConfigError: there is no ledger, or it belongs to another plan.
    """
    from ffalora_cli.records.files import read_json_lines

    lines = read_json_lines(path)[0]
    mechanism = (plan.noise_multiplier, plan.accounted_rate)
    names = ("noise_multiplier", "sample_rate")
    header = lines[0] if lines else {}
    if not all(_same(header.get(n), column) for n, column in zip(names, mechanism, strict=True)):
        raise ConfigError(
            f"{path}: not the mechanism that this run's config leads to; was the data changed? "
            "Audit the config alone, as in ffalora audit OVERRIDES"
        )
    charges: dict[int, np.ndarray] = {}
    for row in lines[1:]:
        steps = charges.setdefault(int(row["round"]), np.zeros(plan.num_clients, np.int64))
        who = slice(None) if row["clients"] is None else np.array(row["clients"], np.int64)
        steps[who] += int(row["steps"])
    return charges


def _same(recorded: Any, column: np.ndarray) -> bool:
    """Whether a header's value, one for all or one a client, is the plan's column to the bit."""
    values = np.array(np.nan if recorded is None else recorded, dtype=np.float64)
    return values.shape in ((), column.shape) and bool((values == column).all())


def _charges(
    charges: Mapping[int, np.ndarray], uplink: list[dict[str, Any]], plan: PrivacyPlan
) -> Check:
    """Whoever uploaded in a round was charged for its local steps of the round, once."""
    wrong = sum(int((steps > plan.steps_per_round).sum()) for steps in charges.values())
    uploads = 0
    for row in uplink:
        who = np.arange(plan.num_clients) if row["clients"] is None else np.array(row["clients"])
        paid = charges.get(row["round"], np.zeros(plan.num_clients, np.int64))[who]
        wrong += int((paid != plan.steps_per_round).sum())
        uploads += len(who)
    text = f"{wrong} of {uploads:,} uploads not charged as planned"
    return exact("recorded charges", wrong, text)


def _totals(taken: np.ndarray, plan: PrivacyPlan) -> Check:
    over, most, planned = (taken > plan.planned_steps).sum(), taken.max(), plan.planned_steps.max()
    text = f"{over} clients beyond their planned steps; at most {most:,} of {planned:,} taken"
    return exact("recorded steps", int(over), text)


def _epsilon(statement: Mapping[str, Any] | None, taken: np.ndarray, plan: PrivacyPlan) -> Check:
    """The stated epsilon is not below that of the recorded steps, computed a second time."""
    name = "recorded epsilon"
    stated = ((statement or {}).get("epsilon_max") or {}).get("spent")
    if stated is None:
        return exact(name, 0, "the run did not end: nothing is stated yet")
    text = f"{float(stated):.4f} is stated, the recorded steps"
    return not_below(name, stated, plan, dict(enumerate(taken.tolist())), text)


def _uploads(folder: Path, uplink: list[dict[str, Any]], config: Config) -> Check:
    """Bytes of every upload are those of the covered tensors, no more and no less."""
    from ffalora_cli.records.run_directory import ADAPTER

    name = "recorded uploads"
    if not (folder / ADAPTER).exists():
        return exact(name, 0, "the run did not end: tensor sizes are unknown")
    elements = _elements(folder / ADAPTER, config)
    width = 2 if config.federation.wire_dtype == "bfloat16" else 4
    odd = 0
    for row in uplink:
        expected = {k: n * width for k, n in elements(row).items() if n}
        sent = {kind: n for kind, n in row["bytes"].items() if kind != "framing" and n}
        odd += sent != expected
    text = f"{odd} of {len(uplink):,} groups of uploads hold other bytes than the covered tensors'"
    return exact(name, odd, text)


def _elements(adapter: Path, config: Config) -> Any:
    """A function: row of the ledger -> elements that one client uploads, by kind."""
    from safetensors import SafetensorError, safe_open

    from ffalora_cli.methods import registry

    method = registry.get(config.method.name)
    if adapter.is_symlink() or not adapter.is_file():
        raise ConfigError(f"{adapter}: is no file of a run; remove it")
    try:
        with safe_open(adapter, "pt") as stored:
            shapes = {name: stored.get_slice(name).get_shape() for name in list(stored.keys())}
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"{adapter}: damaged, no safetensors; run the experiment again"
        ) from error

    def elements(row: Mapping[str, Any]) -> dict[str, int]:
        number = method.numbers(int(row["round"]))[row.get("exchange", 0)]
        factors = method.exchange(number).uploaded
        kinds = {"adapter": 0, "head": 0}
        for name, shape in shapes.items():
            size = int(np.prod(shape))
            if name.startswith("head."):
                kinds["head"] += size * (config.head.mode == "trained")
            elif name.rpartition(".")[2] in factors:
                kinds["adapter"] += size
        return kinds

    return elements
