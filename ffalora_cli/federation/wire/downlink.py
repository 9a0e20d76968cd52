"""Plans what each client is sent before it trains: everything it does not already hold.

A client that took part in exchange n was sent the state after exchange n - 1, so it lacks whatever
changed in exchange n or later. A client that never took part (last exchange 0) lacks everything,
and so does every client of a ``stateless`` federation at the start of a round.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import numpy as np
import torch

from ffalora_cli.types import (
    Dense,
    DenseMerge,
    LowRankMerge,
    Merge,
    PayloadItem,
    Seed,
    ServerState,
    Tensors,
    kind_of,
)

Policy = Literal["cached", "stateless"]


def plan(
    state: ServerState,
    clients: np.ndarray,
    last_exchanges: np.ndarray,
    policy: Policy,
    seeds: Mapping[str, int],
    personal: Collection[str] = (),
) -> list[tuple[np.ndarray, list[PayloadItem]]]:
    """Group a cohort by what its clients lack.

    Tensors still at version 0, and factors drawn anew, travel as the seed they are drawn from;
    dense values are ``[1, ...]``, one payload for the whole group. Per site the missed merges are
    sent by their factors or as the whole dense change of the base weight, whichever has fewer
    elements.

    Args:
        state: to be received.
        clients: ids ``[cohort]``.
        last_exchanges: number of each one's last exchange, int ``[cohort]``; 0 = never.
        policy: ``cached`` clients keep what they were sent, ``stateless`` ones nothing.
        seeds: ``adapter`` and ``head``; a group of tensors without one came with the public base
            model and costs nothing while it is unchanged.
        personal: names of tensors that never travel.

    Returns:
        (client ids ``[group]``, items) for each group; ids keep their order.
    """
    since = np.zeros_like(last_exchanges) if policy == "stateless" else last_exchanges
    merges: dict[str, list[Merge]] = {site: [] for site in state.base_delta}
    for merge in state.merges:
        merges[merge.site].append(merge)
    return [
        (
            clients[since == last],
            _tensor_items(state, int(last), seeds, personal)
            + _merge_items(state, int(last), merges),
        )
        for last in np.unique(since)
    ]


def as_received(state: ServerState, tensors: Tensors, wire_dtype: str) -> Tensors:
    """Global ``tensors`` as clients hold them: rounded by the wire where no seed stands for one."""
    if wire_dtype == "float32":
        return dict(tensors)
    return {
        name: value.to(torch.bfloat16).float() if name in state.tensors else value
        for name, value in tensors.items()
    }


def _tensor_items(
    state: ServerState, last: int, seeds: Mapping[str, int], personal: Collection[str]
) -> list[PayloadItem]:
    """Seeds and dense tensors that a client which last took part in exchange ``last`` lacks."""
    items: list[PayloadItem] = []
    if last == 0:
        unchanged = {kind_of(name) for name, version in state.versions.items() if not version}
        items += [Seed(group, seeds[group]) for group in sorted(unchanged & seeds.keys())]
    changed = [
        name
        for name, version in state.versions.items()
        if version >= max(last, 1) and name not in personal
    ]
    drawn = dict.fromkeys(n.rpartition(".")[2] for n in changed if n not in state.tensors)
    items += [Seed(factor, state.seeds[factor]) for factor in drawn]
    items += [
        Dense(name, kind_of(name), state.tensors[name][None])
        for name in changed
        if name in state.tensors
    ]
    return items


def _merge_items(
    state: ServerState, last: int, merges: Mapping[str, list[Merge]]
) -> list[PayloadItem]:
    """Missed merges by site, by their factors or as the dense change where that is smaller."""
    items: list[PayloadItem] = []
    for site, dense in state.base_delta.items():
        missed = [merge for merge in merges[site] if merge.exchange >= last]
        if sum(merge.left.numel() + merge.right.numel() for merge in missed) > dense.numel():
            items.append(DenseMerge(site, dense))
        else:
            items += [LowRankMerge(f"{site}@{m.exchange}", m.left, m.right) for m in missed]
    return items
