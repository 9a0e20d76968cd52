"""How large a micro-batch is: from free memory, by what autograd keeps, and after it ran out."""

from __future__ import annotations

import platform
import subprocess
import sys
import types
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from ffalora_cli.config.schema import AdapterConfig
from ffalora_cli.engine import memory
from ffalora_cli.engine.gradients import MicroBatch, gradients
from ffalora_cli.models.backbone import Backbone
from ffalora_cli.models.network import build_network
from ffalora_cli.tasks.text_classification import TASK
from tests.tiny import MODELS, TinyExamples

WIDTHS = {"hidden_size": 256, "dim": 256, "intermediate_size": 1024, "hidden_dim": 1024}
WIDTHS |= {"embedding_size": 256, "pooler_hidden_size": 256}


def shape(width, layers, dtype, device):
    """As much of a network as the rule asks for."""
    model = torch.nn.Linear(1, 1, dtype=dtype)
    model.config = types.SimpleNamespace(hidden_size=width, num_hidden_layers=layers)
    place = torch.device(device)
    return types.SimpleNamespace(model=model, device=place, recomputes=False, task=TASK)


LARGE, BASE = (1024, 24), (768, 12)  # RoBERTa


@pytest.mark.parametrize(
    ("size", "dtype", "device", "gib", "tokens"),
    [
        (LARGE, torch.bfloat16, "cuda", 138, 32768),
        (LARGE, torch.float32, "cuda", 138, 16384),
        (LARGE, torch.float32, "cuda", 14, 2048),
        (BASE, torch.bfloat16, "cuda", 138, 65536),
        (BASE, torch.float32, "cuda", 0.5, 512),
        (BASE, torch.float32, "cpu", 20, 2048),
        (LARGE, torch.float32, "cpu", 6, 1024),
        (LARGE, torch.float32, "cpu", 0, 512),
    ],
)
def test_the_largest_size_that_half_the_free_memory_holds(size, dtype, device, gib, tokens):
    network, free = shape(*size, dtype, device), int(gib * 2**30)
    assert memory.auto_max_tokens(network, free) == tokens
    assert memory.auto_max_tokens(network, int(0.97 * free)) == tokens  # a little less is nothing
    assert memory.needed(network, tokens) <= free / 2 or tokens == memory.LEAST_TOKENS


def test_a_step_of_the_paper_is_one_micro_batch_on_a_large_gpu():
    """RoBERTa-large, LoRA of rank 8 on query and value, 600 examples of SST-2."""
    network = shape(*LARGE, torch.bfloat16, "cuda")
    tokens = memory.auto_max_tokens(network, 138 * 2**30)
    copied = 8 * 2 * 24 * 2 * 8 * 1024  # a copy and its gradient, fp32, of A and B
    assert tokens > 8420 and memory.copy_bytes(network, tokens) // copied > 600


@contextmanager
def kept(found):
    """Bytes of every storage that is kept for the backward pass, by address."""

    def keep(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        yield


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["bert", "distilbert", "deberta", "modernbert"])
def test_a_token_keeps_no_more_than_the_rule_says(family, precision):
    """A and B of rank 8, 64 examples; the frozen weights are no part of it."""
    import transformers

    name, settings, targets = MODELS[family]
    wide = {k: WIDTHS.get(k, v) for k, v in settings.items()}
    config = getattr(transformers, f"{name}Config")(**wide)
    model = getattr(transformers, f"{name}ForSequenceClassification")(config)
    backbone = Backbone(model.eval().requires_grad_(False), "tiny", (), TASK)
    adapter = AdapterConfig(8, 8.0, "query_value", "kaiming", 0, 0.0)
    network = build_network(backbone, adapter, targets, precision)
    examples = TinyExamples(64)
    rows = np.argsort(-examples.lengths, kind="stable")
    batch = MicroBatch.of(network, examples, np.zeros(64, np.int64), rows)
    head = {name: network.initial[name] for name in network.head_names}
    trained = {n: v[None] for n, v in network.initial.items() if n not in head}
    found = {p.untyped_storage().data_ptr(): (0, p) for p in network.model.parameters()}
    frozen = {*found}
    with kept(found):
        gradients(network, batch, trained, {}, head)
    total = sum(size for at, (size, _) in found.items() if at not in frozen)
    copies = 64 * 4 * sum(value[0].numel() for value in trained.values())
    longest = int(examples.lengths.max())
    tokens = int(examples.lengths.sum()) if network.packs else 64 * longest
    assert 0.1 < (total - copies) / (tokens * memory.kept_bytes(network)) < 1


GROUPS = {
    "4:memory:/jobs/7/step": {
        "memory/memory.limit_in_bytes": 2**63 - 4096,
        "memory/memory.usage_in_bytes": 900,
        "memory/jobs/7/memory.limit_in_bytes": 1000,
        "memory/jobs/7/memory.usage_in_bytes": 600,
        "memory/jobs/7/memory.stat": "cache 50\ntotal_inactive_file 100\n",
        "memory/jobs/7/step/memory.limit_in_bytes": 2000,
        "memory/jobs/7/step/memory.usage_in_bytes": 600,
        "memory/jobs/7/step/memory.stat": "cache 50\n",
    },
    "0::/jobs/7/step": {
        "jobs/7/memory.max": 1000,
        "jobs/7/memory.current": 600,
        "jobs/7/memory.stat": "anon 50\ninactive_file 100\n",
        "jobs/7/step/memory.max": "max",
        "jobs/7/step/memory.current": 600,
        "jobs/7/step/memory.stat": "anon 50\n",
    },
    "0::/somewhere/outside": {  # in a container, whose root is the group
        "memory.max": 1000,
        "memory.current": 700,
        "memory.stat": "anon 50\ninactive_file 200\n",
    },
}


@pytest.mark.parametrize("line", GROUPS)
def test_limits_of_a_jobs_groups_count(line, tmp_path):
    for name, value in GROUPS[line].items():
        file = tmp_path / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}")
    (tmp_path / "own").write_text(f"5:cpu:/x\n{line}\n")
    assert min(memory._group_limits(tmp_path / "own", tmp_path / "groups")) == 500
    assert memory._group_limits(tmp_path / "none") == []


def test_this_machine_has_memory():
    physical = memory._available(memory.Path("/nowhere"))
    assert 0 < memory.free_memory(torch.device("cpu")) <= memory._available() * 1.5
    assert memory._available() <= physical


class Capture:
    """As ``torch.cuda.graph``: leaving it ends the capture, which out of memory made invalid."""

    def __enter__(self):
        pass

    def __exit__(self, *_):
        raise torch.AcceleratorError("CUDA error: operation failed due to a previous error")


def test_out_of_memory_shows_through_what_came_of_it():
    with pytest.raises(torch.AcceleratorError) as invalid, Capture():
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert memory.out_of_memory(invalid.value)
    with pytest.raises(torch.AcceleratorError) as broken, Capture():
        raise ValueError("something else")
    assert not memory.out_of_memory(broken.value) and not memory.out_of_memory(None)
    for said in ("[enforce fail] can't allocate memory: 1 TB", "CUBLAS_STATUS_ALLOC_FAILED when"):
        assert memory.out_of_memory(RuntimeError(said))
    assert memory.out_of_memory(MemoryError())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this setting")
def test_a_freed_block_is_handed_out_again():
    """Page faults of tensors made and dropped: none once the memory is kept."""
    probe = "import resource, torch\n"
    probe += "def faults():\n"
    probe += "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
    probe += "    for _ in range(20): torch.ones(2**21).add(1.0)\n"
    probe += "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
    probe += "from ffalora_cli.engine.memory import keep_freed_memory\n"
    probe += "first = faults(); keep_freed_memory(); faults(); print(first, faults())\n"
    said = subprocess.run([sys.executable, "-c", probe], capture_output=True, check=True, text=True)
    before, after = map(int, said.stdout.split())
    assert after < before / 10
