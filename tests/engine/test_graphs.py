"""Captured work without a GPU: a stand-in for a CUDA graph plays it, and its faults are found."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest
import torch

from ffalora_cli.config.errors import ConfigError, RunFailed
from ffalora_cli.engine import memory
from ffalora_cli.engine.build import pick_device
from ffalora_cli.engine.job import LocalOptimizer
from ffalora_cli.engine.stacked import cost, graphs
from ffalora_cli.engine.stacked.engine import StackedEngine
from ffalora_cli.engine.stacked.fixed import FixedShapes
from ffalora_cli.engine.stacked.graphs import Captured
from ffalora_cli.engine.stacked.usual_shapes import UsualShapes
from tests.engine.test_engines import gap, job
from tests.tiny import TinyExamples, tiny_network


class Recorder:
    """What a CUDA graph does: capturing runs nothing, replaying runs all of it."""

    made = 0
    replayed = 0

    def __init__(self, device):
        type(self).made += 1

    def capture(self, work, beside):
        self.work, self.beside = work, beside

    def replay(self):
        type(self).replayed += 1
        self.work()


class RunsInstead(Recorder):
    """Captured on another device than the current one: executed, and nothing is left to replay."""

    def capture(self, work, beside):
        work()
        self.work = lambda: None


class Forgets(Recorder):
    """An empty graph."""

    def capture(self, work, beside):
        self.work = lambda: None


class Twice(Recorder):
    def replay(self):
        self.work()
        self.work()


def rounds(graph, count=3, clients=(0, 1, 2), **settings):
    """Results of rounds in which shapes come again; on the CPU, whatever the graph is."""
    network, examples = tiny_network("bert"), TinyExamples(12 * len(clients))
    engine = StackedEngine(network, examples, 64, fixed=True)
    engine._shapes.graph = graph
    work = job(network, clients=clients, factors=("lora_a", "lora_b"), steps=4, **settings)
    return [engine.train(dataclasses.replace(work, round=r)) for r in range(1, count + 1)]


@pytest.fixture
def eager(monkeypatch):
    """Rounds on the same tensors in the same layouts, but nothing is ever captured."""
    usual = UsualShapes.holding

    def play(*given, **settings):
        with monkeypatch.context() as patched:
            patched.setattr(UsualShapes, "holding", lambda *of: (usual(*of)[0], False))
            return rounds(Recorder, *given, **settings)

    return play


@pytest.mark.parametrize("settings", [{}, {"private": False}, {"head": True}], ids=str)
def test_replays_are_the_same_bits_as_eager_work(settings, eager):
    Recorder.made = Recorder.replayed = 0
    once = eager(**settings)
    assert Recorder.made == 0
    replayed = rounds(Recorder, **settings)
    assert 0 < Recorder.made < Recorder.replayed
    for one, two in zip(once, replayed, strict=True):
        assert all(torch.equal(one.trained[n], two.trained[n]) for n in one.trained)
        assert (one.examples == two.examples).all() and (one.clipped == two.clipped).all()
        np.testing.assert_array_equal(one.loss_sum, two.loss_sum)


def test_with_many_clients_they_are_the_same_but_for_rounding(eager):
    """On a CPU more than sixteen are summed by ``index_add``, one by one onto what is there."""
    many = tuple(range(20))
    for one, two in zip(eager(2, clients=many), rounds(Recorder, 2, clients=many), strict=True):
        assert gap(two.trained, one.trained) < 1e-5


def test_every_micro_batch_counts_as_its_replay_gave_it(monkeypatch):
    """Also the first of its layout: a run that goes on begins with no graphs."""
    batches, add = [], FixedShapes.add
    monkeypatch.setattr(FixedShapes, "add", lambda *of: (batches.append(1), add(*of))[1])
    Recorder.replayed = 0
    rounds(Recorder)
    assert 0 < Recorder.replayed == len(batches)


def play(jobs, graph=Recorder, rows=96):
    """Results of jobs on one engine, captured or, with None, eager and without spare places."""
    engine = StackedEngine(tiny_network("bert"), TinyExamples(rows), 64, fixed=True)
    engine._shapes.graph = graph
    Recorder.made = 0
    return [engine.train(work) for work in jobs], engine


def agree(found, wanted):
    for one, two in zip(found, wanted, strict=True):
        assert gap(one.trained, two.trained) < 2e-6
        assert one.trained.keys() == two.trained.keys()
        for counted in ("examples", "units", "clipped", "nonfinite"):
            np.testing.assert_array_equal(getattr(one, counted), getattr(two, counted))
        np.testing.assert_allclose(one.loss_sum, two.loss_sum, rtol=1e-5)


def test_a_clip_that_adapts_needs_no_graph_of_its_own():
    work = job(tiny_network("bert"), factors=("lora_a", "lora_b"), steps=2)
    jobs = [
        dataclasses.replace(work, privacy=dataclasses.replace(work.privacy, max_grad_norm=clip))
        for clip in (0.3, 0.3, 0.2, 0.1, 50.0)
    ]
    found, _ = play(jobs)
    made = Recorder.made
    agree(found, play(jobs, None)[0])
    assert found[3].clipped.sum() > found[4].clipped.sum()
    assert 0 < made == (play(jobs[:2]), Recorder.made)[1]


@pytest.mark.parametrize(("optimizer", "private"), [("sgd", True), ("adamw", False)])
def test_cohorts_of_changing_size_share_their_graphs(optimizer, private):
    """Places of no client add nothing, get no noise and are not released."""
    local = LocalOptimizer(optimizer, 0.05, weight_decay=0.1)
    network = tiny_network("bert")
    cohorts = [(0, 1, 2, 3, 4), (0, 1, 2, 3, 4), (5, 1), (0, 6, 2, 3, 4, 5, 7), (2,)]
    jobs = [
        job(network, ids, ("lora_a", "lora_b"), steps=2, optimizer=local, private=private)
        for ids in cohorts
    ]
    found, engine = play(jobs)
    assert len(engine._shapes._kept) == 1 and Recorder.made
    assert [len(r.examples) for r in found] == [len(ids) for ids in cohorts]
    agree(found, play(jobs, None)[0])


def test_rounds_of_different_tensors_keep_their_graphs():
    """As A and B in turn: the second time round nothing is captured."""
    network = tiny_network("bert")
    a, b = (job(network, factors=(name,), steps=4) for name in ("lora_a", "lora_b"))
    found, engine = play([a, b] * 4)
    made = Recorder.made
    agree(found, play([a, b] * 4, None)[0])
    assert 0 < made == (play([a, b] * 2), Recorder.made)[1]
    graphs = [g.graph for _, kept in engine._shapes._kept.values() for g in kept.values() if g]
    assert [graph.beside is None for graph in graphs].count(True) == 1  # one pool for all


def test_graphs_that_read_a_weight_where_it_was_are_dropped():
    network = tiny_network("bert")
    work = job(network, factors=("lora_a", "lora_b"), steps=4)
    _, engine = play([work, work])
    before = Recorder.made
    assert before and engine._shapes._graphs
    site = network.sites[0]
    delta = {site.name: 0.1 * torch.ones(site.d_out, site.d_in)}
    engine.network.add_to_base(delta)
    found = [engine.train(work) for _ in range(2)]
    assert Recorder.made == 2 * before
    eager = StackedEngine(network, TinyExamples(96), 64)
    network.add_to_base(delta)
    agree(found, [eager.train(work)] * 2)


def test_a_large_head_is_captured(monkeypatch):
    """Ghost norms are not, so they are taken only where copies have no room."""
    monkeypatch.setattr(cost, "OVERHEAD", -np.inf)  # cheaper for every matrix
    work = job(tiny_network("bert"), factors=("lora_a", "lora_b"), head=True, steps=4)
    found, _ = play([work, work])
    assert Recorder.made
    agree(found, play([work, work], None)[0])
    monkeypatch.setattr(memory, "LEAST_COPIES", 0)
    monkeypatch.setattr(memory, "COPIES", 1e-3)
    agree(play([work, work])[0], found)
    assert not Recorder.made


def test_inputs_cross_in_one_buffer():
    inputs = {
        "ids": torch.tensor([[3, 2**31 - 1], [-5, 0]]),
        "seen": torch.tensor([True, False, True]),
        "weights": torch.tensor([0.1, -0.0, float("inf")]),
        "none": torch.zeros(0, 4),
    }
    words = graphs.packed(inputs)
    assert words.dtype == torch.int32 and words.shape == (10,)
    back = graphs.unpacked(words, graphs.shapes_of(inputs))
    for name, value in inputs.items():
        assert back[name].dtype == value.dtype and torch.equal(back[name], value)
    assert torch.signbit(back["weights"][1])


@pytest.mark.parametrize("graph", [RunsInstead, Forgets, Twice])
def test_a_replay_that_is_not_the_work_ends_the_run(graph):
    with pytest.raises(RunFailed, match="does not repeat what was captured"):
        rounds(graph, 1)


def test_values_kept_from_the_capture_show():
    """The inputs of a capture are not those it is compared on."""
    total, added = torch.zeros(1), []

    def work(words):
        added.append(words.sum())
        total.add_(added[-1])

    class Stale(Recorder):
        """Adds what its inputs were worth at the capture."""

        def capture(self, work, beside):
            work()
            value = added[-1].clone()
            self.work = lambda: total.add_(value)

    with pytest.raises(RunFailed, match="does not repeat"):
        Captured.of(work, torch.ones(3, dtype=torch.int32), [total], Stale(None))


def test_capturing_counts_once():
    """Three meetings of one shape: eager, captured, replayed; each adds its values once."""
    total = torch.tensor([100.0])

    def work(words):
        total.add_(words.sum())

    words = torch.tensor([1, 2], dtype=torch.int32)
    captured = Captured.of(work, words, [total], Recorder(None))
    assert total.item() == 103.0
    captured.replay(10 * words)
    assert total.item() == 133.0


def cuda(count):
    """What ``pick_device`` asks of ``torch.cuda``."""
    chosen = []
    return types.SimpleNamespace(
        device_count=lambda: count,
        is_available=lambda: count > 0,
        set_device=chosen.append,
        chosen=chosen,
    )


@pytest.mark.parametrize(
    ("wanted", "count", "device", "current"),
    [
        ("cuda:1", 2, "cuda:1", [1]),
        ("cuda", 2, "cuda", [0]),
        ("auto", 2, "cuda", [0]),
        ("auto", 0, "cpu", []),
        ("cpu", 2, "cpu", []),
    ],
)
def test_the_chosen_gpu_is_the_current_one(wanted, count, device, current):
    there = cuda(count)
    assert pick_device(wanted, there) == device
    assert there.chosen == current


def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="cuda:1: 1 CUDA devices are visible"):
        pick_device("cuda:1", cuda(1))
