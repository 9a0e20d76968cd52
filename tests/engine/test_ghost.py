"""Ghost norms against materialised gradients, and the cost model that chooses."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from ffalora_cli.adapters import ghost
from ffalora_cli.adapters import layout as layouts
from ffalora_cli.adapters.layout import Layout
from ffalora_cli.engine.build import build_engine
from ffalora_cli.engine.job import StepBatches
from ffalora_cli.engine.stacked import clipped_sums, cost
from ffalora_cli.engine.stacked.cost import ghost_tensors
from tests.engine.test_engines import gap, job
from tests.tiny import TinyExamples, tiny_network

BOTH = ("lora_a", "lora_b")


def train(network, examples, work, monkeypatch, overhead, max_tokens=64):
    """A round with ghost norms of every tensor (-inf), or of none (inf); and of which."""
    names = set()
    squares = ghost.Tape.squares

    def spy(self, name):
        names.add(name)
        return squares(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(cost, "OVERHEAD", overhead)
        patch.setattr(ghost.Tape, "squares", spy)
        return build_engine("stacked", network, examples, max_tokens).train(work), names


@pytest.mark.parametrize("private", [True, False], ids=["private", "plain"])
@pytest.mark.parametrize("factors", [("lora_b",), ("lora_a",), BOTH], ids="+".join)
@pytest.mark.parametrize(
    "family", ["bert", "roberta", "distilbert", "electra", "deberta", "modernbert"]
)
def test_ghosts_equal_materialised(family, factors, private, monkeypatch):
    network = tiny_network(family)
    examples = TinyExamples(36, pad_id=1 if family == "roberta" else 0)
    work = job(network, factors=factors, head=True, private=private, steps=1)
    materialised, none = train(network, examples, work, monkeypatch, np.inf)
    with_ghosts, names = train(network, examples, work, monkeypatch, -np.inf)
    assert not none
    assert names == {n for n in work.trainable if not n.endswith("bias")}
    assert gap(with_ghosts.trained, materialised.trained) < 2e-6
    np.testing.assert_array_equal(with_ghosts.clipped, materialised.clipped)
    if private:
        assert materialised.clipped.sum() > 0


def test_ghosts_equal_the_reference_engine(monkeypatch):
    network = tiny_network("roberta")
    examples = TinyExamples(36, pad_id=1)
    work = job(network, factors=BOTH, head=True)
    with_ghosts, _ = train(network, examples, work, monkeypatch, -np.inf)
    reference = build_engine("reference", network, examples, 64).train(work)
    assert gap(with_ghosts.trained, reference.trained) < 1e-4


def test_many_clients_are_summed_as_few_are(monkeypatch):
    network = tiny_network("bert")
    examples = TinyExamples(240)
    work = job(network, clients=tuple(range(20)), factors=BOTH, head=True)
    scattered, _ = train(network, examples, work, monkeypatch, np.inf)
    monkeypatch.setattr(clipped_sums, "FEW_CLIENTS", 20)
    product, _ = train(network, examples, work, monkeypatch, np.inf)
    with_ghosts, _ = train(network, examples, work, monkeypatch, -np.inf)
    assert gap(product.trained, scattered.trained) < 1e-6
    assert gap(with_ghosts.trained, scattered.trained) < 2e-6


def test_one_bad_example_leaves_the_others_bit_identical(monkeypatch):
    """A token whose embedding is NaN: its example counts as zero and touches nothing else."""
    network = tiny_network("bert")
    examples = TinyExamples(36)
    embedding = network.model.bert.embeddings.word_embeddings
    embedding.weight = torch.nn.Parameter(embedding.weight.clone(), requires_grad=False)
    work = job(network, factors=BOTH, head=True, steps=1)
    bad = int(work.batches[0].rows[0])
    examples.tokens[bad][1] = 3  # no other row has token 3
    finite, _ = train(network, examples, work, monkeypatch, -np.inf)
    embedding.weight[3] = float("nan")
    result, _ = train(network, examples, work, monkeypatch, -np.inf)
    assert result.nonfinite.sum() == 1 and finite.nonfinite.sum() == 0
    assert all(bool(torch.isfinite(v).all()) for v in result.trained.values())
    steps = work.batches[0]
    without = StepBatches(steps.slots[1:], steps.rows[1:])
    left_out = dataclasses.replace(work, batches=[without])
    expected, _ = train(network, examples, left_out, monkeypatch, -np.inf)
    assert gap(result.trained, expected.trained) < 1e-6
    others = [slot for slot in range(3) if slot != steps.slots[0]]
    for name, value in result.trained.items():
        assert torch.equal(value[others], finite.trained[name][others])


def test_square_norms_by_every_route():
    generator = torch.Generator().manual_seed(0)
    for tokens, k, m in ((1, 5, 7), (3, 40, 50), (30, 4, 6)):
        x = torch.randn(4, tokens, k, generator=generator)
        grad = torch.randn(4, tokens, m, generator=generator)
        each = torch.einsum("ntm,ntk->nmk", grad.double(), x.double())
        expected = each.square().sum((1, 2))
        got = ghost._square_norms(x, grad)
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=0)


def test_which_tensors_have_ghost_norms():
    """The classes of issue sizes: RoBERTa-large's head and rank 64 yes, rank 8 and biases no."""
    lengths = np.full(200, 26)
    shapes = {
        "head.classifier.dense.weight": (1024, 1024),
        "head.classifier.dense.bias": (1024,),
        "q.lora_b": (1024, 8),
        "q.lora_a": (8, 1024),
        "wide.lora_b": (4096, 64),
        "wide.lora_a": (64, 1024),
    }
    heads = frozenset(name for name in shapes if name.startswith("head."))
    assert ghost_tensors(shapes, heads, lengths) == {
        "head.classifier.dense.weight",
        "wide.lora_b",
        "wide.lora_a",
    }


LENGTHS = np.array([9, 9, 4, 2, 2, 2])


@pytest.mark.parametrize(
    "layout",
    [
        Layout.of(LENGTHS, 0),
        Layout.of(LENGTHS, 6),
        Layout.within((4, 8), (10, 6), LENGTHS),
        Layout.padded(6, 9),
    ],
    ids=["lengths", "classes", "fixed", "padded"],
)
def test_blocks_and_rows_are_inverse(layout):
    """Rows to blocks and back is the identity on tokens; every token is in its example's block."""
    rows = len(layout.owner)
    x = torch.arange(rows * 3, dtype=torch.float32).view(rows, 3) + 1.0
    back = layout.join(layout.blocks(x))
    real = torch.from_numpy(layout.owner >= 0)
    assert torch.equal(back[real], x[real])
    assert all(block.data_ptr() >= x.data_ptr() and block._base is x for block in layout.blocks(x))
    owners = torch.from_numpy(layout.owner + 1.0)[:, None].float()
    example = 0
    for block, seen in zip(layout.blocks(owners), layout.masks(), strict=True):
        for number, one in enumerate(block):
            example += 1
            assert set(one.flatten().tolist()) <= {0.0, float(example)}
            if seen is not None:  # a key of the attention: a token, or what keeps it finite
                tokens = one.flatten() > 0
                assert torch.equal(seen[number], tokens) or seen[number].sum() == 1
    assert example == layout.examples
    held = np.bincount(layout.owner[layout.owner >= 0], minlength=layout.examples)
    np.testing.assert_array_equal(held[held > 0], [9] * 6 if rows == 54 else LENGTHS)


@pytest.mark.parametrize("price", [0, 1, 6, 40, 1000])
def test_classes_are_the_cheapest_cut(price):
    """Against every way to cut, by hand."""
    lengths = np.array([20, 20, 13, 12, 12, 9, 4, 4, 1])

    def cost(cut):
        return sum((b - a) * lengths[a] + price for a, b in cut)

    inner = [[i for i in range(1, 9) if bits >> i & 1] for bits in range(0, 512, 2)]
    ways = [list(itertools.pairwise([0, *at, 9])) for at in inner]
    found = layouts.classes(lengths, price)
    assert found[0][0] == 0 and found[-1][1] == 9
    assert cost(found) == min(map(cost, ways))


@pytest.mark.parametrize("overhead", [np.inf, -np.inf], ids=["materialised", "ghosts"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_fixed_shapes_equal_runs(family, overhead, monkeypatch):
    """What a GPU replays, eagerly: filled-up shapes change nothing and count as nothing."""
    network = tiny_network(family)
    examples = TinyExamples(36, pad_id=1 if family == "roberta" else 0)
    work = job(network, factors=BOTH, head=True, steps=2)
    runs, _ = train(network, examples, work, monkeypatch, overhead)
    engine = build_engine("stacked", network, examples, 64)
    engine.fixed = True
    monkeypatch.setattr(cost, "OVERHEAD", overhead)
    fixed = engine.train(work)
    assert gap(fixed.trained, runs.trained) < 2e-6
    np.testing.assert_array_equal(fixed.examples, runs.examples)
    np.testing.assert_array_equal(fixed.clipped, runs.clipped)
    np.testing.assert_allclose(fixed.loss_sum, runs.loss_sum, rtol=1e-5)
    assert fixed.tokens == runs.tokens and fixed.padded_tokens % 64 == 0


def test_out_of_memory_halves_the_micro_batch_and_goes_on(monkeypatch):
    network = tiny_network("bert")
    examples = TinyExamples(36)
    work = job(network, factors=BOTH, head=True, steps=2)
    engine = build_engine("stacked", network, examples, 64)
    expected = engine.train(work)
    gradients, limit = engine.per_example_gradients, 40

    def small_memory(slots, rows, *rest):
        if examples.lengths[rows].sum() > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return gradients(slots, rows, *rest)

    engine.per_example_gradients = small_memory
    result = engine.train(work)
    assert result.halvings == 1 and engine.max_tokens == 32
    assert gap(result.trained, expected.trained) < 2e-6
    np.testing.assert_array_equal(result.examples, expected.examples)
    assert result.tokens == expected.tokens
    limit = 2
    engine.max_tokens = 64
    with pytest.raises(torch.OutOfMemoryError):
        engine.train(work)
    assert engine.max_tokens == 8
