"""Layers that recompute in the backward pass: the same bits, less kept; what is kept, foretold."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.engine.build import build_engine
from ffalora_cli.engine.memory import LEAST_TOKENS, needed, recompute_if_short
from ffalora_cli.models.families.recompute import layers_of
from tests.engine.test_engines import gap, job
from tests.tiny import MODELS, TinyExamples, tiny_network


def trained(network, **changed):
    """A round with noise of a few clients, all factors and the head trained."""
    work = job(network, clients=(0, 1, 2), factors=("lora_a", "lora_b"), head=True)
    engine = build_engine("stacked", network, TinyExamples(96), 64)
    return engine.train(dataclasses.replace(work, **changed)).trained


@pytest.mark.parametrize("changed", [{}, {"dropout": 0.3}], ids=["packed", "padded, dropout"])
@pytest.mark.parametrize("family", sorted(MODELS.keys() - {"albert"}))
def test_a_round_has_the_same_bits(family, changed):
    """Ghost norms and copies, packed where the family can, and masks of dropout by their keys."""
    wanted = trained(tiny_network(family), **changed)
    network = tiny_network(family)
    network.recompute()
    for name, value in trained(network, **changed).items():
        assert torch.equal(value, wanted[name]), name


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_what_the_frozen_model_drops_is_dropped_again(family):
    """But for rounding: without a cache GPT-2's keys lie otherwise in memory."""
    wanted = trained(tiny_network(family), model_dropout=0.2)
    network = tiny_network(family)
    network.recompute()
    assert gap(trained(network, model_dropout=0.2), wanted) < 1e-6


def test_a_model_without_marked_layers_is_refused():
    network = tiny_network("albert")
    with pytest.raises(ConfigError, match=r"this albert model has no layers .*=false"):
        network.recompute()
    recompute_if_short(network, None, free=0)
    assert not network.recomputes


def test_memory_decides_where_nobody_did():
    network = tiny_network("bert")
    much = 2 * needed(network, LEAST_TOKENS)
    recompute_if_short(network, None, much)
    assert not network.recomputes
    recompute_if_short(network, 2 * LEAST_TOKENS, much)
    assert network.recomputes and len(layers_of(network.model)) == 2
