"""On a GPU: the CPU's results within rounding, the same bits twice, and whole simulations."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from ffalora_cli.engine.build import build_engine
from ffalora_cli.engine.generate import generate
from ffalora_cli.engine.memory import out_of_memory
from ffalora_cli.engine.stacked.graphs import CudaGraph
from ffalora_cli.keys import SecureKey, derive, place
from ffalora_cli.privacy.mechanism.example_level import step_noise
from tests.engine.test_engines import gap, job
from tests.engine.test_generate import BEGINNINGS, ending
from tests.engine.test_two_devices import CASES, equals_the_cpu, play
from tests.export.test_language_models import subject
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


def test_many_clients_and_a_run_that_goes_on_give_the_same_bits():
    """More than sixteen clients; the second engine has captured nothing before its round."""
    network, examples = on_gpu(tiny_network("bert")), TinyExamples(12 * 20)
    work = job(network, clients=tuple(range(20)), factors=("lora_a", "lora_b"), head=True)
    later = dataclasses.replace(work, round=2, batches=work.batches[::-1])
    first = build_engine("stacked", network, examples, 256)
    first.train(work)
    whole, resumed = (
        first.train(later),
        build_engine("stacked", network, examples, 256).train(later),
    )
    assert first._shapes._graphs
    assert all(torch.equal(whole.trained[n], resumed.trained[n]) for n in whole.trained)
    np.testing.assert_array_equal(whole.loss_sum, resumed.loss_sum)


def test_all_graphs_have_one_pool_and_out_of_memory_in_a_capture_is_said():
    """A second capture shares the first's memory; afterwards the stream is the one before."""
    device, graphs = torch.device("cuda"), [CudaGraph(torch.device("cuda")) for _ in range(3)]
    total = torch.zeros(1000, device=device)

    def too_large():
        total.add_(torch.ones(2**50, device=device)[:1000])

    graphs[0].capture(lambda: total.add_(1.0), None)
    graphs[1].capture(lambda: total.add_(total * 2.0), graphs[0])
    assert graphs[0]._graph.pool() == graphs[1]._graph.pool()
    stream = torch.cuda.current_stream()
    with pytest.raises((RuntimeError, torch.OutOfMemoryError)) as full:
        graphs[2].capture(too_large, graphs[0])
    assert out_of_memory(full.value) and torch.cuda.current_stream() == stream
    for graph in graphs[:2]:
        graph.replay()
    assert total.sum().item() == 3000.0


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
    eager._shapes.graph = None
    for round in (1, 2, 3):
        now = dataclasses.replace(work, round=round)
        assert gap(captured.train(now).trained, eager.train(now).trained) < 1e-4
    assert captured._shapes._graphs


def test_the_whole_key_places_the_generator_and_a_client_draws_alike_in_any_company():
    """torch's Philox keeps seed and offset in 16 bytes; noise never waits for the host."""
    key = derive(b"secret" * 6, "noise", 3, 1, 0)
    state = place(torch.Generator("cuda"), key).get_state()
    words = state.numpy().tobytes()
    assert words[:8] == key[:8]
    assert int.from_bytes(words[8:], "little") == int.from_bytes(key[8:16], "little") >> 3 << 2

    def draw(clients, size=4097, secret=b"secret" * 6):
        return step_noise({"a": (size,)}, clients, np.ones(len(clients)), secret, 1, 0, "cuda")

    draw([0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        whole, other, secure = draw(range(20)), draw([7, 3]), draw([7], secret=SecureKey(key))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(other, whole[[7, 3]]) and secure.dtype == torch.float64
    assert torch.corrcoef(whole).sub(torch.eye(20, device="cuda")).abs().max() < 5.5 / 4097**0.5
    far = draw([7], 1_000_000)[0].double()
    assert abs(far.mean()) < 5e-3 and abs(far.std() - 1.0) < 5e-3
    assert torch.equal(draw([7], secret=SecureKey(key)).cpu(), secure.cpu())


def test_a_sweep_counts_the_gpus_that_jobs_will_see(monkeypatch):
    from ffalora_cli.sweep.launchers.gpus import visible

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible() == [str(n) for n in range(torch.cuda.device_count())]


def test_a_gpu_writes_the_cpu_s_answers():
    """Of a model whose scores lie far enough apart that rounding chooses no token."""
    _, network, values, _, _ = subject("gemma2")
    wanted = generate(network, BEGINNINGS, ending(7, 11), 64, values)
    assert generate(on_gpu(network), BEGINNINGS, ending(7, 11), 64, values) == wanted
