"""Finds what makes a comparison meaningless, and what it should say aloud."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ffalora_cli.records.reading import RunRecords
from ffalora_cli.report.runs.selection import spelled, value_at


@dataclass(frozen=True)
class Aspect:
    """Something that runs should have in common.

    Attributes:
        name: in the plural, as a sentence says it.
        of: its value for a run; None where it does not apply.
        why: what is wrong with comparing runs that differ in it.
    """

    name: str
    of: Callable[[RunRecords], str | None]
    why: str


def _evaluation(run: RunRecords) -> Mapping[str, Any]:
    """Facts of the split that the headline is computed on, which is the first."""
    evals = (run.manifest.get("data") or {}).get("evals") or {}
    return next(iter(evals.values()), {})


def _split(run: RunRecords) -> str | None:
    data = run.manifest.get("data") or {}
    name = next(iter(data.get("evals") or {}), None)
    return name and (f"{name} (tune)" if data.get("eval_on") == "tune" else name)


def _version(run: RunRecords) -> str:
    return f"version {spelled(value_at(run.config, 'task.version'))}"


def train_rows(run: RunRecords) -> str | None:
    """Beginning of the fingerprint of all training rows; None where none was recorded."""
    found = (run.manifest.get("data_fingerprints") or {}).get("train")
    return found and str(found)[:8]


def _evaluation_rows(run: RunRecords) -> str | None:
    found = _evaluation(run).get("fingerprint")
    return found and str(found)[:8]


def _private(key: str) -> Callable[[RunRecords], str | None]:
    def read(run: RunRecords) -> str | None:
        return None if run.privacy is None else str(run.privacy.get(key))

    return read


def _of_manifest(key: str) -> Callable[[RunRecords], str | None]:
    def read(run: RunRecords) -> str | None:
        found = run.manifest.get(key)
        return None if found is None else str(found)

    return read


def _library(name: str) -> Callable[[RunRecords], str | None]:
    return lambda run: (run.manifest.get("versions") or {}).get(name)


def _weights(run: RunRecords) -> str | None:
    found = run.manifest.get("model_fingerprint")
    return found and f"{value_at(run.config, 'model.source')} {str(found)[-8:]}"


MEANINGLESS = (
    Aspect("tasks", lambda run: spelled(value_at(run.config, "task.name")), "scores of"),
    Aspect("task versions", _version, "rows or labels changed between"),
    Aspect("evaluation splits", _split, "scores are on"),
    Aspect("evaluation rows", _evaluation_rows, "scores are on rows with fingerprints"),
)
"""Runs that differ here cannot stand in one column of scores."""

_EPSILONS = "their epsilons do not measure the same thing"
WORTH_SAYING = (
    Aspect("privacy units", _private("unit"), _EPSILONS),
    Aspect("neighbouring relations", _private("relation"), _EPSILONS),
    Aspect("samplings", _private("sampling"), _EPSILONS),
    Aspect("accountants", _private("accountant"), "one proves a smaller epsilon for equal noise"),
    Aspect(
        "heads",
        lambda run: value_at(run.config, "head.mode"),
        "a head that is trained adds parameters, and bytes where it is sent",
    ),
    Aspect("training rows", train_rows, "they did not learn from the same rows"),
    Aspect("ffalora versions", _of_manifest("ffalora"), "a change of code may be behind it"),
    Aspect("torch versions", _library("torch"), "results may differ by rounding"),
    Aspect("devices", _of_manifest("device"), "results may differ by rounding"),
)
"""Runs that differ here may be compared, by someone who knows."""


def differences(runs: Sequence[RunRecords], aspects: Sequence[Aspect]) -> dict[Aspect, list[str]]:
    """Aspects in which runs differ, with the values there are; runs it does not apply to aside."""
    found = {}
    for aspect in aspects:
        values = sorted({value for run in runs if (value := aspect.of(run)) is not None})
        if len(values) > 1:
            found[aspect] = values
    return found


def changed_weights(runs: Sequence[RunRecords]) -> list[str]:
    """Sources of models that gave different frozen weights to different runs."""
    seen: dict[str, set[str]] = {}
    for run in runs:
        if (found := _weights(run)) is not None:
            seen.setdefault(found.rsplit(" ", 1)[0], set()).add(found)
    return sorted(name for name, prints in seen.items() if len(prints) > 1)


def recorded_inputs(run: RunRecords) -> dict[str, str]:
    """Fingerprints of what a run was made from, by what a sentence calls it; no file is read."""
    manifest = run.manifest
    identity = manifest.get("identity") or {}
    found = {f"{split} rows": v for split, v in (manifest.get("data_fingerprints") or {}).items()}
    found |= {
        "clients": client_rows(run),
        "weights": manifest.get("model_fingerprint"),
        "model configuration or head": identity.get("model"),
        "tokenizer": identity.get("tokenizer"),
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def other_inputs(runs: Sequence[RunRecords]) -> list[str]:
    """What differs between the inputs of runs, as far as each of them recorded it."""
    seen: dict[str, set[str]] = {}
    for run in runs:
        for name, value in recorded_inputs(run).items():
            seen.setdefault(name, set()).add(value)
    return [name for name, values in seen.items() if len(values) > 1]


def pairing(run: RunRecords, over: str) -> tuple[str, ...]:
    """What two runs must share to be a pair: the key averaged over, and who has which rows.

    The first is text for the reader; the rest are fingerprints of clients and rows. Where those of
    clients were not recorded (a private run's do not leave its machine), the settings that decide
    them stand in.
    """
    clients = client_rows(run)
    if clients is None:
        keys = ("partition", "federation.num_clients", "task.holdout_seed", "task.holdout_fraction")
        clients = " ".join(spelled(value_at(run.config, key)) for key in keys)
    return (
        f"{over} {spelled(value_at(run.config, over))}",
        clients,
        str(train_rows(run)),
        str(_evaluation_rows(run)),
    )


def client_rows(run: RunRecords) -> str | None:
    """Fingerprint of which client has which rows; None where it was not recorded."""
    found = ((run.manifest.get("identity") or {}).get("data") or {}).get("clients")
    return None if found is None else str(found)
