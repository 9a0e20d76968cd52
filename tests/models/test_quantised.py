"""A frozen base in few bits: exactly the model with the rounded weights."""

from __future__ import annotations

import copy

import pytest
import torch

from ffalora_cli.adapters.sites import weight_of
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import QUANTISED, AdapterConfig
from ffalora_cli.engine.memory import weight_bytes
from ffalora_cli.engine.precision import set_precision
from ffalora_cli.models.backbone import Backbone
from ffalora_cli.models.families.quantised import QuantisedLinear, rounded_layers
from ffalora_cli.models.network import build_network
from ffalora_cli.tasks.text_classification import TASK
from tests.tiny import MODELS, TinyExamples, tiny_model

ADAPTER = AdapterConfig(4, 8.0, "query_value", "kaiming", 0, 0.0)
KINDS = ["int8", pytest.param("nf4", marks=pytest.mark.filterwarnings("ignore"))]


def network_of(model, family: str, precision: str = "fp32"):
    return build_network(Backbone(model, "tiny", (), TASK), ADAPTER, MODELS[family][2], precision)


def outputs_and_gradients(network):
    import numpy as np

    examples = TinyExamples(6)
    rows = np.argsort(-examples.lengths, kind="stable")
    copies = {
        name: (tensor + 0.1).expand(6, *tensor.shape).clone().requires_grad_()
        for name, tensor in network.initial.items()
        if not name.startswith("head.")
    }
    outputs = network.outputs(network.inputs(examples, rows), copies)
    outputs.square().sum().backward()
    return outputs.detach(), {name: tensor.grad for name, tensor in copies.items()}


@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2"])
@pytest.mark.parametrize("precision", KINDS)
def test_it_is_the_model_with_the_rounded_weights(family, precision):
    if precision == "nf4":
        pytest.importorskip("bitsandbytes")
    plain = tiny_model(family)
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    rounded = network_of(plain, family, precision)
    same = copy.deepcopy(plain)
    layers = {n: m for n, m in rounded.model.named_modules() if isinstance(m, QuantisedLinear)}
    assert {n.removesuffix(".base") for n in layers} == {n for n, _ in rounded_layers(plain)}
    for name, layer in layers.items():
        weight = weight_of(same.get_submodule(name.removesuffix(".base")))
        off = (layer.dense() - weight).abs().amax(1) / weight.abs().amax()
        assert 0 < off.max() < (0.005 if precision == "int8" else 0.16)
        weight.copy_(layer.dense())
    outputs, gradients = outputs_and_gradients(rounded)
    expected, wanted = outputs_and_gradients(network_of(same, family))
    assert torch.allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    for name, gradient in gradients.items():
        assert (gradient - wanted[name]).norm() <= 1e-5 * wanted[name].norm(), name
    assert all(torch.equal(t, before[n]) for n, t in plain.state_dict().items())
    assert weight_bytes(plain, precision) < weight_bytes(plain, "fp32")


@pytest.mark.parametrize("precision", QUANTISED)
def test_what_needs_the_weights_themselves_refuses_it(precision, monkeypatch):
    few = f"engine.precision={precision}"
    with pytest.raises(ConfigError, match=f"{few}: method=fedex_lora adds to the frozen"):
        plan([few, "method=fedex_lora"])
    with pytest.raises(ConfigError, match=f"{few}: engine.name=reference reads the weights"):
        plan(["engine=reference", few])
    with pytest.raises(ConfigError, match=f"{few}: engine.shard=true reads the weights"):
        plan([few, "engine.shard=true"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    if precision == "nf4":
        with pytest.raises(ConfigError, match=r"pip install 'ffalora\[quant\]'"):
            set_precision(precision, "cpu")
    else:
        set_precision(precision, "cpu")
