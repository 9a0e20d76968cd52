"""Stacked against reference, cohorts against single clients, private rounds against the rules."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from ffalora_cli import keys
from ffalora_cli.engine.build import build_engine
from ffalora_cli.engine.job import ExamplePrivacy, LocalJob, LocalOptimizer, StepBatches, stack_step
from ffalora_cli.engine.stacked.engine import StackedEngine
from ffalora_cli.models.families import short_attention
from ffalora_cli.privacy.mechanism import batches
from tests.tiny import TinyExamples, tiny_network

SECRET = keys.derive(1, "secret")


def job(
    network,
    clients=(0, 1, 2),
    factors=("lora_b",),
    head=False,
    steps=3,
    rows_each=12,
    rate=0.4,
    private=True,
    optimizer=LocalOptimizer("sgd", 0.5, momentum=0.5),
    clip=0.3,
    dropout=0.0,
    spread=0.2,
):
    """A round for clients that own disjoint rows; Poisson batches under privacy."""
    ids = np.array(clients, np.int64)
    drawn = []
    for step in range(steps):
        per_client = []
        for client in clients:
            rows = np.arange(client * rows_each, (client + 1) * rows_each)
            per_client.append(
                batches.poisson_batch(SECRET, client, 1, step, rows, rate)
                if private
                else batches.epoch_batch(0, client, step, rows, 5)
            )
        drawn.append(stack_step(per_client))
    start = {}
    for spec in network.specs:
        if spec.factor in factors if spec.kind == "adapter" else head:
            noise = [
                keys.normal(keys.derive(5, spec.name, client), spec.shape) for client in clients
            ]
            start[spec.name] = network.initial[spec.name] + spread * torch.stack(noise)
    privacy = None
    if private:
        privacy = ExamplePrivacy(
            clip, np.linspace(0.05, 0.1, len(ids)), np.full(len(ids), rows_each * rate), SECRET
        )
    return LocalJob(
        round=1,
        clients=ids,
        batches=drawn,
        start=start,
        common={
            n: v + spread * keys.normal(keys.derive(6, n), tuple(v.shape))
            for n, v in network.initial.items()
            if n not in start
        },
        trainable=tuple(start),
        optimizer=optimizer,
        privacy=privacy,
        dropout=dropout,
        dropout_key=SECRET,
    )


def gap(a, b):
    return max(float((a[n] - b[n]).norm() / b[n].norm().clamp_min(1e-12)) for n in b)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("private", [True, False], ids=["private", "plain"])
@pytest.mark.parametrize(
    ("family", "factors", "head"),
    [
        ("bert", ("lora_b",), False),
        ("bert", ("lora_a", "lora_b"), True),
        ("roberta", ("lora_a", "lora_b"), True),
        ("distilbert", ("lora_b",), True),
        ("bert", ("lora_a",), False),
        ("gpt2", ("lora_a", "lora_b"), True),
    ],
)
def test_stacked_equals_reference(family, factors, head, private, optimizer):
    network = tiny_network(family)
    examples = TinyExamples(36, pad_id=1 if family == "roberta" else 0)
    # Without a clip large steps make a rounding error a thousand times larger.
    lr = 0.01 if optimizer == "adamw" else 0.5 if private else 0.1
    work = job(
        network,
        factors=factors,
        head=head,
        private=private,
        optimizer=LocalOptimizer(optimizer, lr),
    )
    stacked = build_engine("stacked", network, examples, 64).train(work)
    reference = build_engine("reference", network, examples, 64).train(work)
    assert gap(stacked.trained, reference.trained) < 1e-4
    assert gap(stacked.trained, {n: work.start[n] for n in work.trainable}) > 1e-3
    np.testing.assert_array_equal(stacked.examples, reference.examples)
    np.testing.assert_array_equal(stacked.clipped, reference.clipped)
    np.testing.assert_allclose(stacked.loss_sum, reference.loss_sum, rtol=1e-4)


@pytest.mark.parametrize("rule", ["per_layer", "automatic"])
@pytest.mark.parametrize(
    ("factors", "head"), [(("lora_a", "lora_b"), True), (("lora_b",), False)], ids=["lora", "ffa"]
)
def test_every_clip_rule_in_both_engines(rule, factors, head):
    """The reference clips the others by a loop over layers and examples of its own."""
    network = tiny_network("bert")
    examples = TinyExamples(36)
    flat = job(network, factors=factors, head=head, clip=2.0)  # above some norms, below others
    work = dataclasses.replace(flat, privacy=dataclasses.replace(flat.privacy, clip=rule))
    stacked = build_engine("stacked", network, examples, 64).train(work)
    reference = build_engine("reference", network, examples, 64).train(work)
    assert gap(stacked.trained, reference.trained) < 1e-4
    np.testing.assert_array_equal(stacked.clipped, reference.clipped)
    other = build_engine("stacked", network, examples, 64).train(flat)
    assert gap(stacked.trained, other.trained) > 1e-3


def test_stacked_equals_reference_with_dropout():
    network = tiny_network("bert")
    examples = TinyExamples(36)
    work = job(network, factors=("lora_a", "lora_b"), dropout=0.3)
    stacked = build_engine("stacked", network, examples, 64).train(work)
    reference = build_engine("reference", network, examples, 64).train(work)
    without = build_engine("stacked", network, examples, 64).train(
        dataclasses.replace(work, dropout=0.0)
    )
    assert gap(stacked.trained, reference.trained) < 1e-4
    assert gap(stacked.trained, without.trained) > 1e-4


@pytest.mark.parametrize("way", ["stacked", "fixed shapes", "reference"])
def test_a_batch_gradient_is_cut_as_torch_cuts_it(way):
    """One step of SGD at rate 1 moves by the gradient: torch's own function cuts that."""
    network, examples = tiny_network("bert"), TinyExamples(36)
    plain = LocalOptimizer("sgd", 1.0)
    work = job(
        network, factors=("lora_a", "lora_b"), head=True, steps=1, private=False, optimizer=plain
    )

    def moved(optimizer):
        engine = build_engine(
            "reference" if way == "reference" else "stacked", network, examples, 64
        )
        if way == "fixed shapes":
            engine = StackedEngine(network, examples, 64, fixed=True)
        found = engine.train(dataclasses.replace(work, optimizer=optimizer)).trained
        return {n: found[n] - work.start[n] for n in work.trainable}

    free = moved(plain)
    norms = torch.cat([v.flatten(1) for v in free.values()], 1).norm(dim=1)  # [clients]
    most = float(norms.median())
    assert norms.min() < most < norms.max()
    cut = moved(dataclasses.replace(plain, clip_gradients=most))
    for client in range(len(norms)):
        parameters = [torch.nn.Parameter(v[client]) for v in free.values()]
        for parameter in parameters:
            parameter.grad = parameter.detach().clone()
        torch.nn.utils.clip_grad_norm_(parameters, most)
        for parameter, found in zip(parameters, cut.values(), strict=True):
            assert torch.allclose(parameter.grad, found[client], atol=1e-6)


def test_both_engines_add_the_same_secure_noise():
    """Drawn in 64 bits; what they return is fp32."""
    network, examples = tiny_network("bert"), TinyExamples(36)
    plain = job(network)
    secure = dataclasses.replace(plain.privacy, secret=keys.SecureKey(SECRET))
    work = dataclasses.replace(plain, privacy=secure)
    engines = [build_engine(name, network, examples, 60) for name in ("stacked", "reference")]
    found = [engine.train(work).trained for engine in engines]
    assert gap(*found) < 1e-4
    assert gap(found[0], engines[0].train(plain).trained) > 1e-3
    assert all(value.dtype == torch.float32 for stack in found for value in stack.values())


def test_cohort_of_eight_is_eight_cohorts_of_one():
    network = tiny_network("bert")
    examples = TinyExamples(96)
    together = job(network, clients=tuple(range(8)), head=True)
    engine = build_engine("stacked", network, examples, 50)
    all_at_once = engine.train(together)
    for slot in range(8):
        alone = dataclasses.replace(
            together,
            clients=together.clients[slot : slot + 1],
            start={n: v[slot : slot + 1] for n, v in together.start.items()},
            batches=[stack_step([b.rows[b.slots == slot]]) for b in together.batches],
            privacy=ExamplePrivacy(
                together.privacy.max_grad_norm,
                together.privacy.noise_sd[slot : slot + 1],
                together.privacy.expected_batch[slot : slot + 1],
                SECRET,
            ),
        )
        single = engine.train(alone)
        found = {n: v[slot : slot + 1] for n, v in all_at_once.trained.items()}
        assert gap(found, single.trained) < 1e-5


@pytest.mark.parametrize("max_tokens", [14, 40, 1000])
def test_cutting_changes_nothing_but_rounding(max_tokens):
    network = tiny_network("bert")
    examples = TinyExamples(36)
    work = job(network, factors=("lora_a", "lora_b"), head=True)
    reference = build_engine("stacked", network, examples, 64).train(work)
    found = build_engine("stacked", network, examples, max_tokens).train(work)
    assert gap(found.trained, reference.trained) < 1e-5
    assert found.tokens == reference.tokens


def test_empty_batches_are_noise_only_steps():
    network = tiny_network("bert")
    examples = TinyExamples(36)
    work = job(network, rate=1e-9, steps=2, optimizer=LocalOptimizer("sgd", 1.0), rows_each=12)
    work = dataclasses.replace(
        work, privacy=dataclasses.replace(work.privacy, expected_batch=np.full(3, 4.0))
    )
    for name in ("stacked", "reference"):
        result = build_engine(name, network, examples, 64).train(work)
        assert result.examples.sum() == 0
        for slot in range(3):
            moved = torch.cat(
                [(result.trained[n] - work.start[n])[slot].flatten() for n in work.trainable]
            )
            expected = work.privacy.noise_sd[slot] * np.sqrt(2) / 4.0
            assert abs(float(moved.std()) / expected - 1) < 0.1


def test_one_bad_example_leaves_the_others_alone():
    """A NaN gradient is replaced before clipping, counted, and touches no other example."""
    network = tiny_network("bert")
    examples = TinyExamples(36)
    work = job(network, rate=1.0, steps=1)
    engine = build_engine("stacked", network, examples, 64)
    original = engine.per_example_gradients
    bad_row = 3

    def poisoned(slots, rows, *tensors):
        losses, grads = original(slots, rows, *tensors)
        for grad in grads.values():
            grad[rows == bad_row] = float("nan")
        return losses, grads

    engine.per_example_gradients = poisoned
    result = engine.train(work)
    assert result.nonfinite.tolist() == [1, 0, 0]
    engine.per_example_gradients = original
    kept = work.batches[0].rows != bad_row
    without = dataclasses.replace(
        work,
        batches=[StepBatches(work.batches[0].slots[kept], work.batches[0].rows[kept])],
    )
    assert gap(result.trained, engine.train(without).trained) < 1e-6


@pytest.mark.parametrize("short", [48, 0], ids=["short attention", "fused"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_embedding_does_not_leave_its_example(bad, short, monkeypatch):
    """Others of its class, and rows that only fill it up, have the bits they have without it."""
    monkeypatch.setitem(short_attention.LONGEST, torch.float32, short)
    network, examples = tiny_network("bert"), TinyExamples(12)
    examples.lengths[:] = np.linspace(40, 3, 12)
    draw = np.random.default_rng(0).integers
    examples.tokens = [draw(4, 59, n) for n in examples.lengths]
    examples.tokens[4][-1] = 59
    work = job(network, clients=(0,), factors=("lora_a", "lora_b"), head=True)
    engine = build_engine("stacked", network, examples, 1024)

    def found():
        given = (np.zeros(12, np.int64), np.arange(12), work.start, {}, work.common)
        losses, grads = engine.per_example_gradients(*given)
        return torch.cat([losses[:, None], *(grad.flatten(1) for grad in grads.values())], 1)

    expected = found()
    words = network.model.get_input_embeddings()
    words.weight = torch.nn.Parameter(words.weight.clone(), requires_grad=False)
    words.weight[59] = bad
    same = (found() == expected).all(1)
    assert same.tolist() == [row != 4 for row in range(12)]


def test_a_step_moves_by_at_most_the_clip():
    """Sensitivity: dropping one example moves the summed gradient by at most C."""
    network = tiny_network("bert")
    examples = TinyExamples(12)
    work = job(
        network, clients=(0,), rate=1.0, steps=1, clip=0.01, optimizer=LocalOptimizer("sgd", 1.0)
    )
    work = dataclasses.replace(
        work, privacy=dataclasses.replace(work.privacy, expected_batch=np.ones(1))
    )
    engine = build_engine("stacked", network, examples, 64)
    full = engine.train(work)
    for row in range(12):
        kept = work.batches[0].rows != row
        less = dataclasses.replace(
            work,
            batches=[StepBatches(work.batches[0].slots[kept], work.batches[0].rows[kept])],
        )
        other = engine.train(less)
        moved = torch.cat([(full.trained[n] - other.trained[n]).flatten() for n in work.trainable])
        assert 0 < float(moved.norm()) <= 0.01 * (1 + 1e-4)


def test_one_client_is_ordinary_peft_fine_tuning():
    """No privacy, plain SGD: step by step the weights PEFT's LoRA would have."""
    import copy

    from peft import LoraConfig, TaskType, get_peft_model

    network = tiny_network("bert", rank=4, alpha=8)
    examples = TinyExamples(12)
    peft = get_peft_model(
        copy.deepcopy(network.plain),
        LoraConfig(
            task_type=TaskType.SEQ_CLS,
            r=4,
            lora_alpha=8,
            lora_dropout=0.0,
            target_modules=["query", "value"],
        ),
    )
    named = {}
    for name, parameter in peft.named_parameters():
        bare = name.removeprefix("base_model.model.").replace(".default.weight", "")
        if "lora_A" in bare or "lora_B" in bare:
            ours = bare.replace("lora_A", "lora_a").replace("lora_B", "lora_b")
            parameter.data = network.initial[ours].clone()
            named[ours] = parameter
        else:
            parameter.requires_grad_(False)
    for name, parameter in peft.named_parameters():
        if "classifier" in name:
            parameter.requires_grad_(False)
            original = "classifier." + name.rsplit(".", 1)[-1]
            parameter.data = network.plain.get_parameter(original).data.clone()
    peft.eval()
    optimizer = torch.optim.SGD(list(named.values()), lr=0.5)
    for steps in range(1, 5):
        work = job(
            network,
            clients=(0,),
            factors=("lora_a", "lora_b"),
            private=False,
            steps=steps,
            spread=0.0,
            optimizer=LocalOptimizer("sgd", 0.5),
        )
        ours = build_engine("stacked", network, examples, 64).train(work).trained
        rows = work.batches[-1].rows
        logits = peft(**examples.inputs(rows)).logits
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(
            logits, torch.from_numpy(examples.targets.values[rows])
        ).backward()
        optimizer.step()
        worst = gap({n: v[0] for n, v in ours.items()}, {n: p.detach() for n, p in named.items()})
        assert worst < 1e-5
