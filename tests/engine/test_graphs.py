"""Captured work without a GPU: a stand-in for a CUDA graph plays it, and its faults are found."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest
import torch

from ffalora_cli.config.errors import ConfigError, RunFailed
from ffalora_cli.engine.build import pick_device
from ffalora_cli.engine.stacked.engine import StackedEngine
from ffalora_cli.engine.stacked.graphs import Captured
from tests.engine.test_engines import gap, job
from tests.tiny import TinyExamples, tiny_network


class Recorder:
    """What a CUDA graph does: capturing runs nothing, replaying runs all of it."""

    made = 0
    replayed = 0

    def __init__(self, device):
        type(self).made += 1

    def capture(self, work):
        self.work = work

    def replay(self):
        type(self).replayed += 1
        self.work()


class RunsInstead(Recorder):
    """Captured on another device than the current one: executed, and nothing is left to replay."""

    def capture(self, work):
        work()
        self.work = lambda: None


class Forgets(Recorder):
    """An empty graph."""

    def capture(self, work):
        self.work = lambda: None


class Twice(Recorder):
    def replay(self):
        self.work()
        self.work()


def rounds(graph, count=3, clients=(0, 1, 2), private=True):
    """Results of rounds in which shapes come again; on the CPU, whatever the graph is."""
    network, examples = tiny_network("bert"), TinyExamples(12 * len(clients))
    engine = StackedEngine(network, examples, 64, fixed=True, ghost_norms=False)
    engine._shapes.graph = graph
    work = job(network, clients=clients, factors=("lora_a", "lora_b"), steps=4, private=private)
    return [engine.train(dataclasses.replace(work, round=r)) for r in range(1, count + 1)]


@pytest.mark.parametrize("settings", [{}, {"private": False}], ids=str)
def test_replays_are_the_same_bits_as_eager_work(settings):
    Recorder.made = Recorder.replayed = 0
    eager, replayed = rounds(None, **settings), rounds(Recorder, **settings)
    assert 0 < Recorder.made < Recorder.replayed
    for one, two in zip(eager, replayed, strict=True):
        assert all(torch.equal(one.trained[n], two.trained[n]) for n in one.trained)
        assert (one.examples == two.examples).all() and (one.clipped == two.clipped).all()
        np.testing.assert_array_equal(one.loss_sum, two.loss_sum)


def test_with_many_clients_they_are_the_same_but_for_rounding():
    """More than sixteen are summed by ``index_add``, which adds to what is there one by one."""
    many = tuple(range(20))
    for one, two in zip(
        rounds(None, 2, clients=many), rounds(Recorder, 2, clients=many), strict=True
    ):
        assert gap(two.trained, one.trained) < 1e-5


@pytest.mark.parametrize("graph", [RunsInstead, Forgets, Twice])
def test_a_replay_that_is_not_the_work_ends_the_run(graph):
    with pytest.raises(RunFailed, match="does not repeat what was captured"):
        rounds(graph, 1)


def test_values_kept_from_the_capture_show():
    """The inputs of a capture are not those it is compared on."""
    total, added = torch.zeros(1), []

    def work(batch):
        added.append(batch["x"].sum())
        total.add_(added[-1])

    class Stale(Recorder):
        """Adds what its inputs were worth at the capture."""

        def capture(self, work):
            work()
            value = added[-1].clone()
            self.work = lambda: total.add_(value)

    with pytest.raises(RunFailed, match="does not repeat"):
        Captured.of(work, {"x": torch.ones(3)}, [total], torch.device("cpu"), Stale(None))


def test_capturing_counts_once():
    """Three meetings of one shape: eager, captured, replayed; each adds its values once."""
    total = torch.tensor([100.0])

    def work(batch):
        total.add_(batch["x"].sum())

    inputs = {"x": torch.tensor([1.0, 2.0])}
    captured = Captured.of(work, inputs, [total], torch.device("cpu"), Recorder(None))
    assert total.item() == 103.0
    captured.replay({"x": torch.tensor([10.0, 20.0])})
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
