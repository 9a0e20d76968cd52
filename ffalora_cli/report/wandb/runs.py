"""Reads runs back from W&B, as if they had been read from their folders.

What a folder has beyond the rounds travels in W&B's config under ``KEY``. Metrics
that a private run kept at home are not there, and neither are ledger and clients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from ffalora_cli.config.errors import ConfigError, brief, counted
from ffalora_cli.config.schema import Config
from ffalora_cli.metric_keys import EPSILON
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.records.run_directory import SCHEMA_VERSION
from ffalora_cli.records.summary import summarize
from ffalora_cli.records.trackers.base import KEY
from ffalora_cli.report.runs.selection import value_at
from ffalora_cli.tasks.registry import higher_is_better
from ffalora_cli.types import RoundRecord

if TYPE_CHECKING:
    import wandb

TIMEOUT_SECONDS = 20
_ASKED_THERE = ("state", "group", "tags", "display_name", "name", "created_at", "username")
"""Filters that W&B applies; with ``config.*``, ``summary_metrics.*`` and ``$and`` and the like."""


def fetch(entity_project: str, filters: Mapping[str, Any]) -> list[RunRecords]:
    """The runs of a W&B project, by id.

    Args:
        entity_project: ``ENTITY/PROJECT``, or ``PROJECT`` of the account's default entity.
        filters: W&B's own (``tags``, ``group``, ``state``, ``display_name``, ``config.seed.value``,
            ``$or``, ...), passed on; and settings by their dotted keys (``method.name``), compared
            here, with one value or a list of allowed ones.

    Raises:
        ConfigError: without account, network or project, and where no run of ffalora fits.
    """
    asked = {key: value for key, value in filters.items() if _asked_there(key)}
    settings = {key: value for key, value in filters.items() if key not in asked}
    try:
        runs = [run for run in _api().runs(entity_project, filters=asked, lazy=False)]
        ours = [run for run in runs if KEY in run.config and _fits(run.config, settings)]
        found = [_records(entity_project, run) for run in ours]
    except ConfigError:
        raise
    except Exception as error:
        reason = reason_of(error)[:120]
        raise ConfigError(
            f"W&B {entity_project}: {reason}; check the name and `wandb login`"
        ) from error
    if not found:
        raise ConfigError(
            f"W&B {entity_project}: none of {counted(len(runs), 'run')} is a run of ffalora "
            "that fits; name fewer filters"
        )
    return sorted(found, key=lambda run: run.path.name)


def connect(where: str) -> None:
    """Log in to W&B, in silence: only ``cli`` speaks to the user.

    Raises:
        ConfigError: without an account.
    """
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    if not wandb.login(prompt=False, verify=False):
        raise ConfigError(f"{where}: no API key, or WANDB_MODE is offline; run `wandb login`")


def reason_of(error: Exception) -> str:
    """The first line of an error; wandb has many, and raises some of other packages."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _api() -> wandb.Api:
    import wandb

    connect("W&B")
    return wandb.Api(timeout=TIMEOUT_SECONDS)


def _asked_there(key: str) -> bool:
    return key in _ASKED_THERE or key.startswith(("config.", "summary_metrics.", "$"))


def _fits(config: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether a config has one of the allowed values under every key; ``6`` is ``6.0``."""
    for key, wanted in settings.items():
        allowed = wanted if isinstance(wanted, list | tuple | set) else [wanted]
        if _spelled(value_at(config, key)) not in {_spelled(item) for item in allowed}:
            return False
    return True


def _spelled(value: Any) -> str:
    try:
        return f"{float(value):g}"
    except (TypeError, ValueError):
        return "null" if value is None else str(value).lower()


def _records(entity_project: str, run: Any) -> RunRecords:
    config = _with_nulls(run.config, Config)
    origin = config.pop(KEY)
    if not isinstance(origin, Mapping) or not isinstance(origin.get("manifest"), Mapping):
        raise ConfigError(f"W&B {entity_project}/{run.id}: {KEY} in its config is {brief(origin)}")
    lines = int(run.historyLineCount or 0)
    # No more points than asked for: without keys, W&B leaves out some of a longer history.
    rows = run.history(samples=lines, pandas=False) if lines else []
    rounds = _rounds(rows)
    privacy = _privacy(origin.get("privacy"), rounds)
    return RunRecords(
        path=Path(entity_project, run.id),
        manifest={"schema_version": SCHEMA_VERSION, "id": run.id, **origin["manifest"]},
        config=config,
        rounds=rounds,
        privacy=privacy,
        summary=_summary(run.summary_metrics, rounds, privacy),
        cut_short=len(rows) < lines,
    )


def _with_nulls(section: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """A section with the keys that were null, which trackers do not get."""
    found = dict(section)
    for name, hint in get_type_hints(kind).items():
        kinds = [*get_args(hint), hint]
        (inner,) = [one for one in kinds if is_dataclass(one)] or [None]
        if name not in found:
            found |= {name: None} if NoneType in kinds else {}
        elif inner is not None and isinstance(found[name], Mapping):
            found[name] = _with_nulls(found[name], inner)
    return found


def _rounds(rows: Iterable[Mapping[str, Any]]) -> tuple[RoundRecord, ...]:
    """One record a round; what came twice (see ``docs/tracking.md``) is there once."""
    metrics: dict[int, dict[str, float]] = {}
    for row in rows:
        if row.get("round") is None:
            continue
        values = {key: _number(value) for key, value in row.items() if "/" in key}
        known = {key: value for key, value in values.items() if value is not None}
        metrics.setdefault(int(row["round"]), {}).update(known)
    return tuple(RoundRecord(number, metrics[number]) for number in sorted(metrics))


def _number(value: Any) -> float | None:
    """W&B writes non-finite numbers as text."""
    if value in ("NaN", "Infinity", "-Infinity"):
        return float("nan")  # as the local records read what they store as null
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _privacy(
    claim: Mapping[str, Any] | None, rounds: tuple[RoundRecord, ...]
) -> dict[str, Any] | None:
    """The planned statement with what was spent by the last round."""
    if claim is None:
        return None
    spent = [r.metrics[EPSILON] for r in rounds if EPSILON in r.metrics]
    planned = (claim.get("epsilon_max") or {}).get("planned")
    return {**claim, "epsilon_max": {"planned": planned, "spent": spent[-1] if spent else None}}


def _summary(
    logged: Mapping[str, Any], rounds: tuple[RoundRecord, ...], privacy: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """The result, made from the rounds as it was made at home; None where the run did not end."""
    if logged.get("status") != "finished" or not rounds:
        return None
    seconds = float(logged.get("seconds") or 0.0)
    headline = str(logged.get("headline"))
    said = {"privacy": privacy}
    summary = summarize(rounds, headline, seconds, said, higher_is_better(headline))
    return {**summary, "ended": logged.get("ended")}
