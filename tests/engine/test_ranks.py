"""One run on two gloo ranks against one process: every method and unit, one start of two forks."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ffalora_cli.config.errors import RunFailed
from ffalora_cli.data.partition.partition import ClientRows
from ffalora_cli.engine import ranks as ranks_module
from ffalora_cli.engine.build import build_engine
from ffalora_cli.engine.evaluate import predict
from ffalora_cli.engine.job import StepBatches
from ffalora_cli.engine.ranks import ALONE, Ranks, owners, owners_of_clients
from ffalora_cli.experiment.ranks import Leader, follow
from ffalora_cli.methods import registry
from ffalora_cli.metric_keys import PADDING, ROUND_SECONDS, SAMPLES_PER_SECOND
from ffalora_cli.privacy.planning.make import make_plan
from tests.engine.test_engines import job as many
from tests.engine.test_units_of_privacy import SIZES, units_job
from tests.federation.test_simulation import FEDERATION, OFFSETS, PRIVATE, simulate
from tests.tiny import TinyExamples, tiny_network
from tests.two_ranks import on_two_ranks

SEVEN = np.repeat(np.arange(6), (7, 1, 1, 2, 4, 5))  # the first client's rows; a unit has 7
UNITS = np.concatenate([SEVEN, *(np.arange(size) % 5 for size in np.diff(OFFSETS)[1:])])
EVALUATED = TinyExamples(30, seed=1)
COMBINATIONS = [
    (method, unit)
    for method in registry.names()
    for unit in ("none", "row", "column", "client")
    if unit in registry.get(method).units
]


def federation(method, unit, ranks=None):
    """What a run is built of: a federation on the tiny model, whose engine is one of ``ranks``."""
    config = dataclasses.replace(FEDERATION, rounds=2, weights="uniform")
    privacy = dataclasses.replace(PRIVATE, unit="row" if unit == "none" else unit)
    head = "trained" if unit == "client" else "personal"
    sim = simulate(method, head, unit != "none", config, privacy, secret=b"s" * 32)
    if unit == "column":
        sim.clients = ClientRows(sim.clients.rows, OFFSETS, UNITS)
        sim.plan = make_plan(privacy, sim.clients.num_units, config, sim.plan.covered)
    sim.engine = build_engine("stacked", sim.network, TinyExamples(64), 64, ranks)
    answer = predict if ranks is None else lambda *args: predict(*args, ranks=ranks)
    data = SimpleNamespace(evals={"validation": EVALUATED})
    return SimpleNamespace(simulation=sim, predict=answer, write=None, data=data)


def outcome(parts):
    """Tensors, counts and answers that two rounds leave behind."""
    sim = parts.simulation
    counted: dict[str, float] = {}
    for record in sim.rounds():
        of_this_sitting = {ROUND_SECONDS, SAMPLES_PER_SECOND, PADDING}
        counted |= {k: v for k, v in record.metrics.items() if k not in of_this_sitting}
    tensors = sim.tensors | sim.client_states.to_tensors()
    losses = parts.predict(sim.network, EVALUATED, sim.tensors, 64).losses
    return {n: v.numpy() for n, v in tensors.items()} | {"losses": losses}, counted


def shared(ranks):
    """Every combination on this rank; of rank 0 what it left behind."""
    found = []
    for combination in COMBINATIONS:
        parts = federation(*combination, ranks)
        if ranks.rank:
            follow(ranks, parts)
            continue
        leader = Leader(ranks, parts)
        parts.simulation.engine, parts.predict = leader, leader.predict
        found.append(outcome(parts))
        ranks.tell()
    return found


@pytest.fixture
def by_unit(monkeypatch):
    """Units are shared, however evenly whole clients could be."""
    monkeypatch.setattr(ranks_module, "EVEN", 0.0)


def test_two_ranks_do_what_one_process_does(by_unit):
    """Within rounding; ranks that were not equal to the bit would have failed (``check_same``)."""
    for combination, (tensors, counted) in zip(COMBINATIONS, on_two_ranks(shared)[0], strict=True):
        wanted, numbers = outcome(federation(*combination))
        # Singular vectors of nearly equal singular values turn with a rounding error.
        limit = 1e-4 if combination[0] == "fedsvd" else 1e-6
        for name, value in wanted.items():
            off = np.linalg.norm(tensors[name] - value)
            assert off <= limit * np.linalg.norm(value), (combination, name)
        assert counted == pytest.approx(numbers, rel=1e-6), combination


def sums(ranks):
    """Noiseless sums of a step of units of several rows; then of units that are cut in two."""
    network, examples = tiny_network("bert"), TinyExamples(2 * sum(SIZES))
    job, engine = units_job(network), build_engine("stacked", network, examples, 64, ranks)
    whole = engine.train(job)
    ranks_module.owners = lambda pairs, lengths, world: np.arange(len(pairs.rows)) % world
    cut = engine.train(job)
    ranks_module.owners = owners
    return [{n: v.numpy() for n, v in r.trained.items()} for r in (whole, cut)] + [whole.units]


def of_many(ranks):
    """Rounds of many clients with noise, momentum and own ranks: whole clients on each rank."""
    network, examples = tiny_network("bert"), TinyExamples(192)
    work = many(network, clients=range(16), factors=("lora_a", "lora_b"), head=True)
    assert owners_of_clients(work, examples.lengths, 2) is not None
    found = build_engine("stacked", network, examples, 64, ranks).train(work)
    counts = [found.examples, found.units, found.clipped, found.nonfinite]
    values = {n: v.numpy() for n, v in found.trained.items()}
    return values, np.stack(counts), found.loss_sum, found.tokens


def test_whole_clients_are_shared_where_that_is_as_even():
    values, counts, losses, tokens = of_many(ALONE)
    first, second = on_two_ranks(of_many)
    for name, value in values.items():
        assert np.linalg.norm(first[0][name] - value) <= 1e-6 * np.linalg.norm(value)
        assert np.array_equal(first[0][name], second[0][name])
    assert np.array_equal(first[1], counts) and first[3] == tokens
    np.testing.assert_allclose(first[2], losses, rtol=1e-6)
    few = many(tiny_network("bert"), clients=(0, 1, 2))
    assert owners_of_clients(few, TinyExamples(96).lengths, 2) is None


def tight(ranks):
    """Rank 1 has memory for half a micro-batch only; the engine's ``max_tokens`` afterwards."""
    network, examples = tiny_network("bert"), TinyExamples(192)
    engine = build_engine("stacked", network, examples, 64, ranks)
    inner, calls = engine.per_example_gradients, []

    def gradients(*args):
        calls.append(1)
        if ranks.rank == 1 and len(calls) == 3:
            raise torch.OutOfMemoryError("no memory")
        return inner(*args)

    engine.per_example_gradients = gradients
    found = engine.train(many(network, clients=range(16)))
    return found.halvings, found.max_tokens, engine.max_tokens


@pytest.mark.parametrize("even", [0.0, ranks_module.EVEN], ids=["units", "clients"])
def test_what_one_rank_has_no_memory_for_none_does_again(even, monkeypatch):
    monkeypatch.setattr(ranks_module, "EVEN", even)
    assert on_two_ranks(tight) == [(1, 32, 32)] * 2


def trained_twice(ranks):
    """Both ranks hold that a client is theirs: the sum of their rows would be no client's."""
    network, examples = tiny_network("bert"), TinyExamples(192)
    part = build_engine("stacked", network, examples, 64).train(many(network, clients=(0, 1)))
    with pytest.raises(RunFailed, match="ranks dealt out the clients otherwise"):
        ranks.joined(part, np.array([0, 1 + ranks.rank]), 3)


def test_a_client_is_of_one_rank():
    assert on_two_ranks(trained_twice) == [None, None]


def test_a_unit_is_never_divided(by_unit):
    """Its rows on two ranks, each part clipped by itself, would move the sum by more than C."""
    one, _, units = sums(ALONE)
    first, second = on_two_ranks(sums)
    for name, value in one.items():
        scale = np.linalg.norm(value)
        assert np.array_equal(first[0][name], second[0][name])  # ranks agree to the bit
        assert np.linalg.norm(first[0][name] - value) <= 1e-6 * scale
        assert np.linalg.norm(first[1][name] - value) > 1e-3 * scale  # the mutant is seen
    assert np.array_equal(first[2], units)


@pytest.mark.parametrize("world", [2, 3, 8])
def test_shares_are_whole_units_and_even(world):
    generator = np.random.default_rng(world)
    lengths = generator.integers(3, 60, 400)
    units = generator.integers(0, 150, 400)
    pairs = StepBatches(np.sort(generator.integers(0, 3, 400)), np.arange(400), units)
    owner = owners(pairs, lengths, world)
    tokens = np.bincount(owner, lengths, world)
    assert all(len(np.unique(owner[units == unit])) == 1 for unit in np.unique(units))
    assert tokens.max() - tokens.min() <= np.bincount(units, lengths).max()
    parts = [Ranks(rank, world).share(pairs, lengths) for rank in range(world)]
    assert np.array_equal(np.sort(np.concatenate([p.rows for p in parts])), pairs.rows)
    assert all((np.diff(p.slots) >= 0).all() for p in parts)  # grouped by client, as they came
    nothing = StepBatches(*[np.zeros(0, np.int64)] * 2)
    assert len(owners(nothing, lengths, world)) == 0


def other_bits(ranks):
    with pytest.raises(RunFailed, match="round 3: tensors of rank 1 differ"):
        ranks.check_same([torch.ones(1), torch.tensor([float(ranks.rank)])], "round 3: tensors")
    ranks.check_same([torch.tensor([0.0, 1.0])], "round 3: tensors")
    return ranks.gather(b"rank" * ranks.rank), ranks.tell(b"from 0" if not ranks.rank else b"")


def test_other_bits_on_a_rank_end_the_run():
    assert on_two_ranks(other_bits) == [([b"", b"rank"], b"from 0")] * 2
