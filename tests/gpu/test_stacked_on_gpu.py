"""On a GPU: the CPU's results within rounding, the same bits twice, and whole simulations."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from ffalora_cli.engine.build import build_engine
from tests.engine.test_engines import gap, job
from tests.engine.test_two_devices import CASES, equals_the_cpu, play
from tests.tiny import TinyExamples, tiny_network

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]


def on_gpu(network):
    moved = copy.copy(network)
    moved.model = copy.deepcopy(network.model).to("cuda")
    moved.plain = copy.deepcopy(network.plain).to("cuda")
    moved.context = next(m.context for m in moved.model.modules() if hasattr(m, "context"))
    return moved


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_gpu_equals_cpu_without_noise(family):
    network = tiny_network(family)
    examples = TinyExamples(36, pad_id=1 if family == "roberta" else 0)
    work = job(network, factors=("lora_a", "lora_b"), head=True)
    work = dataclasses.replace(
        work, privacy=dataclasses.replace(work.privacy, noise_sd=np.zeros(3))
    )
    cpu = build_engine("stacked", network, examples, 64).train(work).trained
    gpu = build_engine("stacked", on_gpu(network), examples, 64).train(work).trained
    assert gap(gpu, cpu) < 1e-3


def test_the_same_private_round_twice_gives_the_same_bits():
    network = on_gpu(tiny_network("bert"))
    examples = TinyExamples(36)
    work = job(network, head=True)
    one = build_engine("stacked", network, examples, 64).train(work).trained
    two = build_engine("stacked", network, examples, 64).train(work).trained
    assert all(torch.equal(one[n], two[n]) for n in one)


LAST = f"cuda:{torch.cuda.device_count() - 1}"  # where there are several, not the first


@pytest.mark.parametrize("case", CASES, ids=", ".join)
def test_a_run_and_its_resume(case):
    """Rounds, a resume, more rounds, an evaluation."""
    equals_the_cpu(play(LAST, *case), case)


@pytest.mark.parametrize("family", ["distilbert", "deberta"])
def test_families_that_pad(family):
    play(LAST, "lora", "example", "trained", family=family)


def test_graphs_are_captured_and_give_what_eager_work_gives():
    """Several rounds of the same shapes, with and without graphs."""
    network, examples = on_gpu(tiny_network("bert")), TinyExamples(36)
    work = job(network, factors=("lora_a", "lora_b"), steps=4)
    work = dataclasses.replace(
        work, privacy=dataclasses.replace(work.privacy, noise_sd=np.zeros(3))
    )
    captured, eager = (build_engine("stacked", network, examples, 64) for _ in range(2))
    captured.ghost_norms = eager.ghost_norms = False
    eager._shapes.graph = None
    for round in (1, 2, 3):
        now = dataclasses.replace(work, round=round)
        assert gap(captured.train(now).trained, eager.train(now).trained) < 1e-4
    assert any(captured._shapes._graphs.values())


def test_a_sweep_counts_the_gpus_that_jobs_will_see(monkeypatch):
    from ffalora_cli.sweep.launchers.gpus import visible

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible() == [str(n) for n in range(torch.cuda.device_count())]
