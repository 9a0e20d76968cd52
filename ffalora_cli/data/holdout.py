"""Cuts hold-outs: training rows that no client is given, by stratum and in whole groups."""

from __future__ import annotations

import numpy as np

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import TaskConfig
from ffalora_cli.config.splits import HOLDOUT
from ffalora_cli.data.groups import KeyedRows, group_rows
from ffalora_cli.keys import derive, numpy_generator
from ffalora_cli.tasks import registry


def keys_together(rows: KeyedRows, keep_together: str) -> np.ndarray | None:
    """What is dealt as one, uint64 [n]; None: each row by itself.

    Args:
        rows: of the training set.
        keep_together: ``partition.keep_together``: text, row, or the name of the unit column.
    """
    if keep_together == "row":
        return None
    return rows.text_keys if keep_together == "text" else rows.unit_keys


def cut_rows(
    task: TaskConfig, keep_together: str, rows: KeyedRows
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Row numbers that stay for training, and those held out by purpose (``eval``, ``tune``).

    With ``partition.keep_together=row`` equal texts are on one side all the same, as they always
    were: texts as they stand, counted with their first row's stratum.

    Raises:
        ConfigError: a share that holds out nothing, or everything.
    """
    cuts = [("eval", task.holdout_seed)] if task.eval_split == HOLDOUT else []
    if task.eval_on == "tune" and task.tune_split == HOLDOUT:
        cuts.append(("tune", task.holdout_seed + 1))
    key = f"task.holdout_fraction={task.holdout_fraction}"
    keys = keys_together(rows, keep_together)
    strata, names = registry.strata(task, rows.targets)
    alone = keys is None
    if keys is None:
        keys = rows.hashes
    else:
        groups = group_rows(strata, keys)
        strata = groups.strata[groups.of_row]
    left = np.arange(len(strata))
    held_out: dict[str, np.ndarray] = {}
    for purpose, seed in cuts:
        kept, held = cut_holdout(
            strata[left], keys[left], len(names), task.holdout_fraction, seed, alone
        )
        if not len(kept):
            raise ConfigError(f"{key} leaves no training row of task {task.name}; make it smaller")
        if not len(held):
            raise ConfigError(
                f"{key} of {len(left)} rows is less than half of any group of "
                f"partition.keep_together={keep_together}; make it larger"
            )
        left, held_out[purpose] = left[kept], left[held]
    return left, held_out


def cut_holdout(
    strata: np.ndarray,
    keys: np.ndarray,
    num_strata: int,
    fraction: float,
    seed: int,
    alone: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Split rows in two, by stratum, whole groups; the order of the rows plays no part.

    Args:
        strata: int [n], of each row's group.
        keys: uint64 [n], equal for rows of one group.
        num_strata: strata are below it.
        fraction: of each stratum to hold out, rounded, at least one row, as near as groups allow.
        seed: of this cut alone.
        alone: whether rows are dealt one by one: a stratum then ends before the first group too
            many.

    Returns:
        (kept, held out): row numbers, ascending, int64.
    """
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    sizes = np.bincount(group)  # [groups]
    order = numpy_generator(derive(seed, "holdout")).permutation(len(sizes))
    held_groups = np.zeros(len(sizes), dtype=bool)
    for stratum in range(num_strata):
        members = order[strata[first[order]] == stratum]
        quota = max(1, int(np.rint(fraction * sizes[members].sum())))
        if alone:
            held_groups[members[np.cumsum(sizes[members]) <= quota]] = True
        else:
            held_groups[members[_nearest(sizes[members], quota)]] = True
    held = held_groups[group]
    return np.flatnonzero(~held), np.flatnonzero(held)


def _nearest(sizes: np.ndarray, quota: int) -> list[int]:
    """Places of the groups to hold out: one after another, each that brings the sum nearer."""
    chosen, left = [], quota
    for place, size in enumerate(sizes.tolist()):
        if size < 2 * left:
            chosen.append(place)
            left -= size
        if left <= 0:
            break
    return chosen
