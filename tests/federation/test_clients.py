import numpy as np
import pytest
import torch

from ffalora_cli.federation.cohort.clients import ClientStates

INITIAL = {"s.lora_b": torch.zeros(3, 2), "head.bias": torch.tensor([1.0, 2.0])}


def stack_for(clients, offset=0.0):
    """Values that say whose they are."""
    return {
        name: torch.stack([torch.full_like(start, float(c) + offset) for c in clients])
        for name, start in INITIAL.items()
    }


def test_clients_without_state_start_from_the_initial_values():
    gathered = ClientStates(5).gather(np.array([4, 1]), INITIAL, INITIAL)
    for name, start in INITIAL.items():
        assert torch.equal(gathered[name], torch.stack([start, start]))
    gathered["head.bias"][0] = 9.0
    assert INITIAL["head.bias"].tolist() == [1.0, 2.0]  # copies were handed out
    assert gathered["head.bias"][1].tolist() == [1.0, 2.0]


def test_every_client_gets_back_its_own_values():
    states = ClientStates(50)
    truth = {}
    generator = np.random.default_rng(0)
    for round in range(1, 20):
        cohort = np.sort(generator.choice(50, size=7, replace=False))
        gathered = states.gather(cohort, ["head.bias"], INITIAL)["head.bias"]
        for row, client in enumerate(cohort):
            expected = truth.get(client, INITIAL["head.bias"].tolist())
            assert gathered[row].tolist() == expected
        states.scatter(cohort, stack_for(cohort, offset=100.0 * round))
        truth |= {client: [float(client) + 100.0 * round] * 2 for client in cohort}


def test_last_round_is_zero_until_a_client_takes_part():
    states = ClientStates(4)
    states.took_part(np.array([1, 3]), 5)
    assert states.last_round.tolist() == [0, 5, 0, 5]


def test_checkpoint_gives_the_same_states_back():
    states = ClientStates(9)
    for round, cohort in enumerate((np.array([8, 2]), np.array([2, 5, 0])), start=1):
        states.scatter(cohort, stack_for(cohort, offset=float(round)))
        states.took_part(cohort, round)
    saved = states.to_tensors()
    restored = ClientStates.from_tensors({name: value.clone() for name, value in saved.items()})
    everyone = np.arange(9)
    for name, values in states.gather(everyone, INITIAL, INITIAL).items():
        assert torch.equal(restored.gather(everyone, INITIAL, INITIAL)[name], values)
    assert np.array_equal(restored.last_round, states.last_round)
    restored.scatter(np.array([7]), stack_for([7], offset=0.5))  # a restored state can grow
    assert restored.gather(np.array([7, 5]), ["head.bias"], INITIAL)["head.bias"].tolist() == [
        [7.5, 7.5],
        [7.0, 7.0],
    ]
    states.scatter(np.array([2]), stack_for([2], offset=50.0))
    assert saved["personal/head.bias"][1].tolist() == [4.0, 4.0], "a checkpoint is a snapshot"


def test_a_large_population_is_stored_only_where_it_took_part():
    states = ClientStates(200_000)
    for _ in range(2):  # the second time into the same row
        states.scatter(np.array([199_999]), stack_for([199_999]))
    assert states.to_tensors()["personal/s.lora_b"].shape == (1, 3, 2)


def test_other_names_and_double_clients_are_refused():
    states = ClientStates(3)
    states.scatter(np.array([0]), stack_for([0]))
    with pytest.raises(ValueError, match="names"):
        states.scatter(np.array([0]), {"head.bias": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match="twice"):
        states.scatter(np.array([1, 1]), stack_for([1, 1]))
