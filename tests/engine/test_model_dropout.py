"""Dropout of the frozen model: keyed by the row, the same in both engines, in any family."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from ffalora_cli import keys
from ffalora_cli.adapters.context import Context
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.engine.build import build_engine
from ffalora_cli.engine.correctness import check_model_dropout
from ffalora_cli.engine.job import LocalOptimizer
from ffalora_cli.engine.model_dropout import ModelDropout
from tests.engine.test_engines import gap, job
from tests.tiny import TinyExamples, tiny_image_network, tiny_images, tiny_network


def words(*rows):
    return np.array([keys.torch_seed(keys.derive(3, row)) for row in rows])


def inside(rows, work, rate="own"):
    with ModelDropout(Context(), rate, words(*rows)):
        return work()


@pytest.mark.parametrize("private", [True, False], ids=["private", "plain"])
@pytest.mark.parametrize(
    ("family", "rate"), [("bert", "own"), ("gpt2", "own"), ("modernbert", 0.3)]
)
def test_both_engines_drop_the_same(family, rate, private):
    network, examples = tiny_network(family), TinyExamples(36)
    check_model_dropout(network, examples, rate)
    work = job(network, factors=("lora_a", "lora_b"), head=True, private=private)
    calm = LocalOptimizer("sgd", 0.5 if private else 0.1)  # without a clip rounding grows with it
    work = dataclasses.replace(work, model_dropout=rate, optimizer=calm)
    stacked = build_engine("stacked", network, examples, 64).train(work).trained
    assert gap(stacked, build_engine("reference", network, examples, 64).train(work).trained) < 1e-5
    # However rows are cut into micro-batches and padded.
    assert gap(stacked, build_engine("stacked", network, examples, 900).train(work).trained) < 1e-5
    whole = dataclasses.replace(work, model_dropout=None)
    assert gap(stacked, build_engine("stacked", network, examples, 64).train(whole).trained) > 0.01
    assert (
        not network.model.training and network.context.model_dropout is None
    )  # evaluation drops nothing


def test_a_mask_is_a_function_of_its_row_and_place():
    x = torch.ones(3, 50, 40)
    two = inside((7, 8, 9), lambda: [functional.dropout(x, 0.25) for _ in range(2)])
    assert not torch.equal(two[0], two[1]) and not torch.equal(two[0][0], two[0][1])
    alone = inside((8,), lambda: functional.dropout(x[:1, :9], 0.25))
    assert torch.equal(alone[0], two[0][1, :9])
    assert set(two[0].unique().tolist()) == {0.0, float(torch.tensor(1.0) / 0.75)}
    kept = float((two[0] > 0).double().mean())
    assert abs(kept - 0.75) < 5 * (0.75 * 0.25 / x.numel()) ** 0.5
    assert torch.equal(inside((7, 8, 9), lambda: functional.dropout(x, 0.25, False)), x)


@pytest.mark.parametrize("mask", ["none", "bool", "float", "causal"])
def test_attention_drops_its_weights(mask):
    """Against softmax, dropout and product written out, which is what eager attention does."""
    q = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    k, v = q[:, :2].flip(2), q[:, 2:].cos()  # half as many heads of keys and values
    seen = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    seen[1, :, :, 4:] = False
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    allowed = {"none": None, "causal": causal}.get(mask, seen)
    given = {"attn_mask": allowed} if mask == "bool" else {"is_causal": mask == "causal"}
    if mask == "float":
        given = {"attn_mask": torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)}

    def written_out():
        scores = q @ k.repeat_interleave(2, 1).mT / 8**0.5
        scores = scores if allowed is None else scores.masked_fill(~allowed, -torch.inf)
        return functional.dropout(scores.softmax(-1), 0.3) @ v.repeat_interleave(2, 1)

    fused = functional.scaled_dot_product_attention
    found = inside((1, 2), lambda: fused(q, k, v, dropout_p=0.3, enable_gqa=True, **given))
    assert torch.allclose(found, inside((1, 2), written_out), atol=1e-6)


def test_of_a_rate_that_is_given_every_place_drops_so_much():
    dropped = inside((1,), lambda: functional.dropout(torch.ones(1, 9999), 0.0), 0.6)
    assert abs(float((dropped == 0).double().mean()) - 0.6) < 0.03


def test_images_and_what_cannot_be_keyed():
    check_model_dropout(tiny_image_network("vit"), tiny_images(5), 0.2)
    with pytest.raises(ConfigError, match=r"rand is not of single entries .*=null"):
        check_model_dropout(tiny_image_network("swin"), tiny_images(5), "own")
    examples = TinyExamples(5)
    with pytest.raises(ConfigError, match="drops in a tensor of shape"):
        check_model_dropout(tiny_network("deberta"), examples, "own")
    with pytest.raises(ConfigError, match="drops nothing by its own config; give a rate"):
        check_model_dropout(tiny_network("modernbert"), examples, "own")


def test_a_model_that_mixes_rows_is_refused(monkeypatch):
    """One that lays the rows of a batch out in another order than it got them."""
    network = tiny_network("bert")
    inner = network.model.bert.embeddings.dropout
    monkeypatch.setattr(inner, "forward", lambda x: functional.dropout(x.flip(0), 0.3).flip(0))
    with pytest.raises(ConfigError, match=r"changes with the rows beside it \(its loss by"):
        check_model_dropout(network, TinyExamples(5), "own")
