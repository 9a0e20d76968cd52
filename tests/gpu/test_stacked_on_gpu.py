"""The stacked engine on a GPU: the CPU's result within rounding, the same bits twice."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from ffalora_cli.engine import build_engine
from tests.tiny import TinyExamples, tiny_network
from tests.unit.test_engines import gap, job

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
    assert gap({n: v.cpu() for n, v in gpu.items()}, cpu) < 1e-3


def test_the_same_private_round_twice_gives_the_same_bits():
    network = on_gpu(tiny_network("bert"))
    examples = TinyExamples(36)
    work = job(network, head=True)
    one = build_engine("stacked", network, examples, 64).train(work).trained
    two = build_engine("stacked", network, examples, 64).train(work).trained
    assert all(torch.equal(one[n], two[n]) for n in one)
