"""The stacked engine's per-example gradients against a loop over examples and against Opacus."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from ffalora_cli.adapters.sites import replace
from ffalora_cli.engine.reference import AdaptedLayer
from ffalora_cli.engine.stacked.engine import StackedEngine
from tests.tiny import MODELS, TinyExamples, tiny_network

ROWS, CLIENTS = 11, 3


def cohort(network, examples, factors, head):
    """Random factors of three clients (B not zero), split into trained and common tensors."""
    generator = torch.Generator().manual_seed(7)
    values = {
        s.name: network.initial[s.name] + 0.3 * torch.randn(CLIENTS, *s.shape, generator=generator)
        for s in network.specs
    }
    trained = {
        s.name: values[s.name]
        for s in network.specs
        if (s.factor in factors if s.kind == "adapter" else head)
    }
    common = {n: network.initial[n] for n in network.initial if n not in trained}
    order = np.argsort(-examples.lengths, kind="stable")
    return trained, common, order % CLIENTS, order


def looped(network, examples, trained, common, slots, rows):
    """One example at a time through the model's own padded forward, plain-shaped factors."""
    gradients = {name: [] for name in trained}
    for slot, row in zip(slots, rows, strict=True):
        leaves = {n: v[slot].clone().requires_grad_() for n, v in trained.items()}
        logits = network.outputs(examples.inputs(np.array([row])), {**common, **leaves})
        loss = torch.nn.functional.cross_entropy(
            logits, torch.tensor([int(examples.targets.values[row])])
        )
        for name, grad in zip(
            leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True
        ):
            gradients[name].append(grad)
    return {name: torch.stack(grads) for name, grads in gradients.items()}


def opacus(network, examples, trained, common, slots, rows):
    """Opacus hooks on ordinary LoRA modules, one client's batch at a time."""
    from opacus import GradSampleModule

    found = {name: torch.zeros(len(rows), *v.shape[1:]) for name, v in trained.items()}
    for slot in range(CLIENTS):
        chosen = np.flatnonzero(slots == slot)
        model, form = copy.deepcopy(network.plain), network.form
        parameters = {n: torch.nn.Parameter(v) for n, v in network.initial.items()}
        for site in network.sites:
            added = form.module(form.of_site(parameters, site))
            layer = AdaptedLayer(model.get_submodule(site.name), added, network.scale, site.name)
            replace(model, site.name, layer)
        for name in network.head_names:
            path = name.removeprefix("head.")
            parameters[name] = model.get_parameter(path)
            model.get_submodule(path.rpartition(".")[0]).train()
        for name, parameter in parameters.items():
            value = trained[name][slot] if name in trained else common[name]
            parameter.data = value.clone()
            parameter.requires_grad_(name in trained)
        wrapped = GradSampleModule(model, loss_reduction="sum")
        logits = wrapped(**examples.inputs(rows[chosen])).logits
        labels = torch.from_numpy(examples.targets.values[rows[chosen]])
        torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
        for name in trained:
            found[name][chosen] = parameters[name].grad_sample
    return found


def worst(found, expected):
    return max(
        float((found[n] - expected[n]).norm() / expected[n].norm().clamp_min(1e-12))
        for n in expected
    )


@pytest.mark.parametrize("head", [False, True], ids=["frozen_head", "trained_head"])
@pytest.mark.parametrize("factors", [("lora_b",), ("lora_a", "lora_b")], ids=["ffa", "lora"])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "gpt2"])
def test_equal_to_a_loop_and_to_opacus(family, factors, head):
    network = tiny_network(family)
    examples = TinyExamples(ROWS, pad_id=1 if family == "roberta" else 0)
    case = cohort(network, examples, factors, head)
    trained, common, slots, rows = case
    engine = StackedEngine(network, examples)
    _, found = engine.per_example_gradients(slots, rows, trained, {}, common)
    assert worst(found, looped(network, examples, trained, common, slots, rows)) < 1e-5
    assert worst(found, opacus(network, examples, trained, common, slots, rows)) < 1e-5


@pytest.mark.parametrize("family", sorted(MODELS))
def test_every_family_against_the_loop(family):
    network = tiny_network(family)
    examples = TinyExamples(ROWS, pad_id=1 if family == "roberta" else 0)
    trained, common, slots, rows = cohort(network, examples, ("lora_a", "lora_b"), True)
    engine = StackedEngine(network, examples)
    _, found = engine.per_example_gradients(slots, rows, trained, {}, common)
    expected = looped(network, examples, trained, common, slots, rows)
    assert min(float(e.norm()) for n, e in expected.items() if "lora" in n) > 0
    assert worst(found, expected) < 1e-5


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_packed_forward_is_the_models_own(family):
    network = tiny_network(family)
    assert network.packs
    examples = TinyExamples(ROWS, pad_id=1 if family == "roberta" else 0)
    rows = np.argsort(-examples.lengths, kind="stable")
    values = {n: v + 0.1 for n, v in network.initial.items()}
    packed = network.outputs(network.inputs(examples, rows), values)
    padded = network.outputs(examples.inputs(rows), values)
    assert torch.allclose(packed, padded, rtol=1e-5, atol=1e-5)


def test_clients_with_different_frozen_factors():
    """A factor that differs between clients but is not trained is gathered, not differentiated."""
    network = tiny_network("bert")
    examples = TinyExamples(ROWS)
    both, common, slots, rows = cohort(network, examples, ("lora_a", "lora_b"), False)
    trained = {n: v for n, v in both.items() if n.endswith("lora_a")}
    held = {n: v for n, v in both.items() if n.endswith("lora_b")}
    engine = StackedEngine(network, examples)
    _, found = engine.per_example_gradients(slots, rows, trained, held, common)
    everything = looped(network, examples, both, common, slots, rows)
    assert found.keys() == trained.keys()
    assert worst(found, {n: everything[n] for n in trained}) < 1e-5
