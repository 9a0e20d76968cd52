"""Per-example gradients of language models against PEFT, one row at a time."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from ffalora_cli.config.schema import AdapterConfig
from ffalora_cli.engine.dropout import keyed_dropout
from ffalora_cli.engine.stacked.engine import StackedEngine
from ffalora_cli.models.backbone import Backbone
from ffalora_cli.models.families import vocabulary
from ffalora_cli.models.network import build_network
from ffalora_cli.tasks.causal_lm import TASK
from ffalora_cli.tasks.targets import Targets
from tests.models.test_padding_free import DECODERS, made
from tests.tiny import TinyExamples

# Tokens of prompt and answer: uneven, windows of 8 passed, one token of either and of both.
PROMPTS, ANSWERS = (9, 1, 16, 1, 7, 4, 2), (14, 16, 1, 1, 9, 1, 21)
LLAMA = ("q_proj", "v_proj", "down_proj")
SITES = {
    "phi3": ("qkv_proj", "down_proj"),
    "gpt2": ("attn.c_attn", "mlp.c_proj"),
    "opt": ("q_proj", "v_proj", "fc2"),
    "gpt_neox": ("query_key_value", "dense_4h_to_h"),
}
HEADS = {
    "gemma2": {"final_logit_softcapping": 3.0},
    "granite": {"logits_scaling": 3.0, "residual_multiplier": 0.7},
    "cohere": {"logit_scale": 0.3},
}
FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "gpt2", "phi3", "opt", "olmo2",
            "granite", "cohere", "gpt_neox")  # fmt: skip
CLIENTS = 3


def network_of(family):
    model = made(family, DECODERS[family] | HEADS.get(family, {}), "AutoModelForCausalLM")
    adapter = AdapterConfig(4, 8.0, "some", "kaiming", 0, 0.0)
    network = build_network(Backbone(model, "tiny", (), TASK), adapter, SITES.get(family, LLAMA))
    assert network.packs, network.padding
    return network


def texts(weights="mean", prompts_too=None):
    """Rows of random tokens; ``prompts_too``: seed of targets of no weight within the prompts."""
    examples = TinyExamples(len(PROMPTS))
    generator = np.random.default_rng(1)
    examples.lengths = np.add(PROMPTS, ANSWERS).astype(np.int32)
    examples.tokens = [generator.integers(5, 100, n) for n in examples.lengths]
    values, positions, shares = [], [], []
    for tokens, prompt, answer in zip(examples.tokens, PROMPTS, ANSWERS, strict=True):
        first = prompt - 1 if prompts_too is None else 0
        own = tokens[first + 1 :].copy()
        share = np.full(len(own), 1.0 / answer if weights == "mean" else 1.0)
        if prompts_too is not None:
            masked = prompt - 1
            own[:masked] = np.random.default_rng(prompts_too).integers(5, 100, masked)
            share[:masked] = 0.0
        values.append(own)
        positions.append(np.arange(first, len(tokens) - 1))
        shares.append(share)
    offsets = np.r_[0, np.cumsum([len(v) for v in values])]
    examples.targets = Targets(
        np.concatenate(values),
        offsets,
        np.concatenate(positions).astype(np.int32),
        np.concatenate(shares).astype(np.float32),
    )
    return examples


def gradients_of(network, examples, factors=("lora_a", "lora_b")):
    """Losses and per-example gradients of three clients' factors (B not zero), and those factors.

    Returns:
        ``[rows]``, ``[rows, ...]`` by name, both by row, and every row's values by name.
    """
    generator = torch.Generator().manual_seed(7)
    values = {
        s.name: network.initial[s.name] + 0.3 * torch.randn(CLIENTS, *s.shape, generator=generator)
        for s in network.specs
    }
    trained = {s.name: values[s.name] for s in network.specs if s.factor in factors}
    common = {name: value[0] for name, value in values.items() if name not in trained}
    rows = np.argsort(-examples.lengths, kind="stable")
    slots = rows % CLIENTS
    losses, found = StackedEngine(network, examples).per_example_gradients(
        slots, rows, trained, {}, common
    )
    back = np.argsort(rows)
    whose = [
        {**common, **{name: value[row % CLIENTS] for name, value in trained.items()}}
        for row in range(len(rows))
    ]
    return losses[back], {name: grads[back] for name, grads in found.items()}, whose


def looped(network, examples, whose, names):
    """PEFT on the model itself, a batch of one row, transformers' own loss with masked labels."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=network.rank,
        lora_alpha=network.scale * network.rank,
        lora_dropout=0.0,
        target_modules=[site.name for site in network.sites],
        fan_in_fan_out=network.plain.config.model_type == "gpt2",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(copy.deepcopy(network.plain), settings).eval()
    ours = {"lora_a": "lora_A", "lora_b": "lora_B"}
    layers = {
        spec.name: model.get_submodule(
            f"base_model.model.{spec.name.rpartition('.')[0]}.{ours[spec.factor]}.default"
        ).weight
        for spec in network.specs
    }
    losses, gradients = [], {name: [] for name in names}
    for row, values in enumerate(whose):
        for name, weight in layers.items():
            weight.data.copy_(values[name])
        inputs = examples.inputs(np.array([row]))
        labels = inputs["input_ids"].clone()
        labels[0, : PROMPTS[row]] = -100
        loss = model(**inputs, labels=labels).loss
        losses.append(loss.detach())
        for name, grad in zip(
            names, torch.autograd.grad(loss, [layers[n] for n in names]), strict=True
        ):
            gradients[name].append(grad)
    return torch.stack(losses), {name: torch.stack(grads) for name, grads in gradients.items()}


def worst(found, expected):
    """Largest relative error of any row's gradient, all tensors together."""
    gap, size = (
        sum(rows.flatten(1).square().sum(1) for rows in tensors) ** 0.5
        for tensors in ([found[n] - expected[n] for n in expected], list(expected.values()))
    )
    assert float(size.min()) > 1e-3
    return float((gap / size).max())


@pytest.mark.parametrize(
    ("family", "pads"), [*((family, "") for family in FAMILIES), ("opt", "so"), ("llama", "so")]
)
def test_every_row_s_gradient_is_the_one_peft_has_for_it_alone(family, pads):
    network, examples = network_of(family), texts()
    network.padding = pads
    losses, found, whose = gradients_of(network, examples)
    expected, gradients = looped(network, examples, whose, list(found))
    assert torch.allclose(losses, expected, rtol=1e-5)
    assert worst(found, gradients) < 1e-5


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_vocabulary_in_chunks_is_the_vocabulary_at_once(family, chunk, monkeypatch):
    network, examples = network_of(family), texts()
    losses, found, _ = gradients_of(network, examples)
    monkeypatch.setattr(vocabulary, "CHUNK", chunk)
    in_chunks, pieces, _ = gradients_of(network, examples)
    assert torch.allclose(in_chunks, losses, rtol=1e-6)
    assert worst(pieces, found) < 2e-6


def test_no_masked_token_enters_a_mean():
    """Targets of no weight in the prompts: what they are changes no bit, that they are, nothing."""
    network = network_of("llama")
    losses, found, _ = gradients_of(network, texts())
    masked = [gradients_of(network, texts(prompts_too=seed)) for seed in (1, 2)]
    assert torch.equal(masked[0][0], masked[1][0])
    assert all(torch.equal(masked[0][1][name], masked[1][1][name]) for name in found)
    assert torch.allclose(masked[0][0], losses, rtol=1e-6)
    assert worst(masked[0][1], found) < 2e-6


def test_the_gradient_of_a_sum_is_n_times_that_of_the_mean():
    network = network_of("llama")
    means, found, _ = gradients_of(network, texts())
    sums, whole, _ = gradients_of(network, texts("sum"))
    count = torch.tensor(ANSWERS, dtype=torch.float32)
    assert torch.allclose(sums, count * means, rtol=1e-6)
    times = {n: grads * count.view(-1, *[1] * (grads.dim() - 1)) for n, grads in found.items()}
    assert worst(whole, times) < 2e-6


def test_the_answers_rows_alone_reach_the_vocabulary():
    network, examples = network_of("llama"), texts()
    seen = []
    head = network.model.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    _, _, whose = gradients_of(network, examples)
    assert sum(seen) == sum(ANSWERS) and len(whose) == len(ANSWERS)
    row = np.array([0])
    inputs, targets = network.inputs(examples, row), examples.targets.batch(row)
    with torch.no_grad():
        found = network.outputs(inputs, whose[0], targets)
        losses = functional.cross_entropy(found, targets.values, reduction="none")
        answers, each = network.answers(inputs, whose[0], targets)
    assert torch.equal(answers, found.argmax(-1)) and torch.allclose(each, losses, rtol=1e-5)


def test_dropout_leaves_a_row_alone_where_examples_and_tokens_are_one_axis():
    """As in OPT's MLP when it pads: a row's loss is the same in company as by itself."""
    network, examples = network_of("opt"), texts()
    _, _, whose = gradients_of(network, examples)
    job = SimpleNamespace(dropout=0.5, dropout_key=3, clients=np.zeros(1, np.int64), round=1)

    def losses(rows):
        stacked = {n: torch.stack([whose[row][n] for row in rows]) for n in whose[0]}
        masks = keyed_dropout(job, 0, np.zeros(len(rows), np.int64), rows)
        with torch.no_grad(), network.dropping(masks):
            return network.losses(
                network.inputs(examples, rows), stacked, examples.targets.batch(rows)
            )

    rows = np.argsort(-examples.lengths, kind="stable")
    together, alone = losses(rows), torch.cat([losses(rows[[i]]) for i in range(len(rows))])
    assert torch.allclose(together, alone, rtol=1e-4)
