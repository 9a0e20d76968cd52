"""Finds the settings that tell runs apart, and names them as columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ffalora_cli.config.signature import relevant
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.report.runs.selection import GROUP_KEYS, spelled, typed, value_at, values_of

_SEEDS = ("partition.seed", "adapter.seed", "head.seed")  # follow ``seed`` unless set
_FIRST = (
    "task", "model", "method", "partition", "privacy.epsilon_target", "privacy.unit",
    "partition.dirichlet_alpha",
)  # fmt: skip
"""Keys that name a choice, in the order they become columns."""

_FOLLOWERS = ("task.", "model.", "method.", "partition.", "privacy.", "head.")
_FOLLOWING_KEYS = ("federation.local_lr",)
"""Where a choice of a group brings values along: shown apart when the columns determine them."""


def setting(run: RunRecords, key: str) -> str:
    """What a run has under a ``--by`` key, as it is typed; a group's key is its name."""
    if key == "privacy" and run.privacy is None:
        return "none"
    values = values_of(run, key)
    if key == "tag":
        return ",".join(map(str, values)) or "-"
    return spelled(values[0]) if values else "-"


def column_of(key: str) -> str:
    """A key as a column: ``method`` for ``method.name``, ``partition`` for both of its names."""
    names = {dotted: group for group, dotted in GROUP_KEYS.items() if group != "privacy"}
    names |= {"partition.name": "partition", "partition.label_mix": "partition"}
    return names.get(key, key)


def title(key: str) -> str:
    """The last word of a key, which is what people call it: ``epsilon_target``, ``rank``."""
    return key.rsplit(".", 1)[-1]


def differing(runs: Sequence[RunRecords], over: str) -> tuple[list[str], list[str]]:
    """Keys whose values differ between runs.

    Runs of ``method=lora,ffa_lora`` x ``seed=0,1`` x ``adapter.rank=4,8`` over ``seed``: the
    columns are ``method`` and ``adapter.rank``; ``federation.local_lr`` follows the method.

    Args:
        runs: to be compared.
        over: the key that is averaged over; seeds that follow it are left out with it.

    Returns:
        (keys that make columns, keys whose values those columns determine). The learning rate that
        a model recommends for a method is of the second kind; anything set by hand of the first.
    """
    by_hand = {column_of(key) for run in runs for key, _ in typed(run.manifest)}
    leaves = [dict(_leaves(relevant(run.config), "")) for run in runs]
    ignored = {over}
    if over == "seed":
        ignored |= {
            key
            for key in _SEEDS
            if all(value_at(run.config, key) == value_at(run.config, "seed") for run in runs)
        }
    names = sorted({key for flat in leaves for key in flat} - ignored)
    changed = [key for key in names if len({spelled(flat.get(key)) for flat in leaves}) > 1]
    keys = list(dict.fromkeys(column_of(key) for key in changed))
    keys.sort(key=lambda key: (_FIRST.index(key) if key in _FIRST else len(_FIRST), key))
    columns: list[str] = []
    following: list[str] = []
    for key in keys:
        brought = _is_brought(key) and columns and determines(runs, columns, key)
        (following if brought and key not in by_hand else columns).append(key)
    return columns, following


def further_columns(
    runs: Sequence[RunRecords], by: Sequence[str], found: Sequence[str]
) -> tuple[list[str], list[str], list[str]]:
    """What else differs than the columns that were asked for.

    Args:
        runs: to be compared.
        by: columns that were asked for.
        found: all keys that differ, as ``differing`` has them.

    Returns:
        (keys that rows are split by, too: a mean over their values would be none over seeds; other
        seeds, which a row may have several of; keys whose values the columns determine).
    """
    more: list[str] = []
    seeds: list[str] = []
    told: list[str] = []
    for key in found:
        if key in by:
            continue
        if determines(runs, [*by, *more], key):
            told.append(key)
        else:
            (seeds if title(key) == "seed" else more).append(key)
    return more, seeds, told


def carried(runs: Sequence[RunRecords], columns: Sequence[str]) -> list[str]:
    """Columns whose values the others bring along: a rate tuned by hand for each method.

    The baseline of a row differs from it in them, too.
    """
    found: list[str] = []
    for key in columns:
        rest = [column for column in columns if column != key and column not in found]
        if rest and _is_brought(key) and determines(runs, rest, key):
            found.append(key)
    return found


def _is_brought(key: str) -> bool:
    return key.startswith(_FOLLOWERS) or key in _FOLLOWING_KEYS


def said_of(runs: Sequence[RunRecords], columns: Sequence[str], key: str) -> str:
    """``federation.local_lr: 0.5 (ffa_lora), 0.05 (lora)``: the values of a determined key."""
    for column in columns:  # the first column that determines it alone says it shortest
        if determines(runs, [column], key):
            columns = [column]
            break
    having: dict[str, list[str]] = {}
    for run in runs:
        row = "/".join(setting(run, column) for column in columns)
        if row not in having.setdefault(setting(run, key), []):
            having[setting(run, key)].append(row)
    said = ", ".join(f"{value} ({' '.join(rows)})" for value, rows in having.items())
    return f"{key}: {said.replace('null', 'none')}"


def determines(runs: Sequence[RunRecords], columns: Sequence[str], key: str) -> bool:
    """Whether runs that agree in the columns agree in the key."""
    seen: dict[tuple[str, ...], str] = {}
    for run in runs:
        row = tuple(setting(run, column) for column in columns)
        if seen.setdefault(row, setting(run, key)) != setting(run, key):
            return False
    return True


def _leaves(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
