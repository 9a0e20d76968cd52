import numpy as np
import pytest
import torch

from ffalora_cli.federation.server.server import apply_update
from ffalora_cli.federation.wire.downlink import plan
from ffalora_cli.types import (
    Dense,
    DenseMerge,
    LowRankMerge,
    Merge,
    Seed,
    ServerState,
    ServerUpdate,
)

SEEDS = {"adapter": 11, "head": 22}
NAMES = ("s.lora_a", "s.lora_b", "head.weight")
D_OUT, RANK = 8, 1


def start():
    return ServerState({name: torch.zeros(2) for name in NAMES}, dict.fromkeys(NAMES, 0))


def after(state, round, changed, merge_width=0):
    generator = torch.Generator().manual_seed(round)
    left = torch.randn(D_OUT, RANK, generator=generator)
    right = torch.randn(RANK, merge_width, generator=generator)
    merges = (Merge("s", left, right),) if merge_width else ()
    update = ServerUpdate({name: torch.full((2,), float(round)) for name in changed}, merges)
    return apply_update(state, update, round, 0.5, {})


def sent(state, last, policy="cached", **options):
    ((clients, items),) = plan(state, np.array([7]), np.array([last]), policy, SEEDS, **options)
    assert clients.tolist() == [7]
    return items


def names(items, kind=Dense):
    return [item.name for item in items if isinstance(item, kind)]


def test_a_new_client_gets_seeds_for_what_never_changed():
    assert sent(start(), 0) == [Seed("adapter", 11), Seed("head", 22)]
    state = after(start(), 1, ["s.lora_b"])
    assert names(sent(state, 0), Seed) == ["adapter", "head"]
    assert names(sent(state, 0)) == ["s.lora_b"]
    state = after(state, 2, ["s.lora_a", "head.weight"])
    assert names(sent(state, 0), Seed) == []
    assert names(sent(state, 0)) == list(NAMES)


def test_a_client_that_took_part_lacks_changes_of_that_round_and_later():
    state = after(start(), 1, ["s.lora_b"])
    state = after(state, 2, ["s.lora_a"])
    state = after(state, 3, ["head.weight"])
    assert names(sent(state, 1)) == list(NAMES)  # was sent the start
    assert names(sent(state, 2)) == ["s.lora_a", "head.weight"]  # was sent the state of round 1
    assert names(sent(state, 3)) == ["head.weight"]
    assert sent(state, 4) == []
    assert names(sent(state, 1), Seed) == []


def test_stateless_clients_are_sent_everything_each_time():
    state = after(after(start(), 1, ["s.lora_b"]), 2, ["s.lora_b"])
    for last in (0, 1, 2):
        items = sent(state, last, "stateless")
        assert names(items, Seed) == ["adapter", "head"]
        assert names(items) == ["s.lora_b"]


def test_personal_tensors_never_travel():
    state = after(start(), 1, NAMES)
    personal = {"s.lora_b", "head.weight"}
    for last in (0, 1):
        assert names(sent(state, last, personal=personal)) == ["s.lora_a"]


def test_a_public_head_costs_nothing_while_it_is_unchanged():
    ((_, items),) = plan(start(), np.array([0]), np.array([0]), "cached", {"adapter": 11})
    assert items == [Seed("adapter", 11)]


def test_dense_values_are_one_row_of_the_global_state_and_know_their_kind():
    items = sent(after(start(), 1, ["s.lora_b", "head.weight"]), 1)
    assert [(item.name, item.kind) for item in items] == [
        ("s.lora_b", "adapter"),
        ("head.weight", "head"),
    ]
    assert torch.equal(items[0].values, torch.ones(1, 2))


def test_cohort_is_grouped_by_what_its_clients_lack():
    state = after(after(start(), 1, ["s.lora_b"]), 2, ["s.lora_b"])
    clients, last = np.array([3, 5, 8, 9]), np.array([2, 0, 2, 1])
    groups = plan(state, clients, last, "cached", SEEDS)
    assert [group.tolist() for group, _ in groups] == [[5], [9], [3, 8]]
    assert len(plan(state, clients, last, "stateless", SEEDS)) == 1
    assert plan(state, clients[:0], last[:0], "cached", SEEDS) == []


@pytest.mark.parametrize("d_in", [6, 8], ids=["3.4_merges_a_dense", "exactly_4_a_dense"])
@pytest.mark.parametrize("rounds", [1, 3, 4, 5, 9])
def test_a_returning_client_ends_with_the_servers_base_weight(rounds, d_in):
    """By factors while that is not more than the dense change, whose elements are the limit."""
    state, history = start(), [torch.zeros(D_OUT, d_in)]
    for round in range(1, rounds + 1):
        state = after(state, round, [], merge_width=d_in)
        history.append(state.base_delta["s"])
    for last in range(rounds + 2):
        held = history[max(last - 1, 0)]
        items = sent(state, last)
        elements = 0
        for item in items:
            if isinstance(item, DenseMerge):
                held = item.values
                elements += item.values.numel()
            elif isinstance(item, LowRankMerge):
                held = held + 0.5 * item.left @ item.right
                elements += item.left.numel() + item.right.numel()
        torch.testing.assert_close(held, state.base_delta["s"])
        missed = rounds - max(last, 1) + 1
        assert elements == min(missed * RANK * (D_OUT + d_in), D_OUT * d_in)
    assert names(sent(state, rounds), LowRankMerge) == [f"s@{rounds}"]
