"""Clip rules against float64 loops, and the bound they exist for: one example moves a sum by C."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from ffalora_cli.privacy.mechanism.clipping import clip_rule, factors, was_cut

NAMES = ("x.q.lora_a", "x.q.lora_b", "x.v.lora_a", "x.v.lora_b", "head.out.weight", "head.out.bias")
SIZES = (12, 20, 12, 20, 15, 3)
KINDS = ("flat", "per_layer", "automatic")
LAYERS = ((0, 1), (2, 3), (4, 5))


def squares(rows):
    return torch.stack([r.square().sum(1) for r in rows], 1)


def drawn(scales):
    """Gradients [examples, size] by tensor; ``scales`` [examples, tensors]."""
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(len(scales), size, generator=generator) * scales[:, i : i + 1]
        for i, size in enumerate(SIZES)
    ]


def by_hand(kind, norms, clip):
    """Factors of one example from its tensors' norms, in float64, from the formulas."""
    whole = math.sqrt(sum(n * n for n in norms))
    if kind == "automatic":
        return [clip / (whole + 0.01)] * len(norms)
    if kind == "flat":
        return [min(1.0, clip / (whole + 1e-6))] * len(norms)
    found = []
    for members in LAYERS:
        norm = math.sqrt(sum(norms[i] ** 2 for i in members))
        found += [min(1.0, clip / math.sqrt(3) / (norm + 1e-6))] * len(members)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", [0.01, 1.0, 10.0])
def test_factors_are_the_formulas(kind, clip):
    rows = drawn(torch.logspace(-4, 4, 40)[:, None] * torch.logspace(-1, 1, 6)[None])
    found = factors(squares(rows), clip_rule(kind, clip, NAMES))
    norms = torch.stack([r.double().norm(dim=1) for r in rows], 1).tolist()
    wanted = [by_hand(kind, row, clip) for row in norms]
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5)


@given(
    kind=st.sampled_from(KINDS),
    clip=st.floats(1e-3, 1e3),
    powers=st.lists(st.tuples(*[st.floats(-8, 15)] * 6), min_size=1, max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_no_example_keeps_more_than_the_clip(kind, clip, powers):
    """The joint sensitivity, whatever the tensors' scales: per layer too."""
    rule = clip_rule(kind, clip, NAMES)
    rows = drawn(10.0 ** torch.tensor(powers))
    cut = factors(squares(rows), rule)
    kept = [r.double() * cut[:, i : i + 1].double() for i, r in enumerate(rows)]
    norms = torch.cat(kept, 1).norm(dim=1)
    assert (norms <= clip * (1 + 1e-6)).all()
    for members in LAYERS if kind == "per_layer" else ():
        layer = torch.cat([kept[i] for i in members], 1).norm(dim=1)
        assert (layer <= clip / math.sqrt(3) * (1 + 1e-6)).all()


def test_per_layer_reaches_the_joint_clip_and_not_less():
    """Every layer far above its bound: the joint norm is C itself, the sensitivity is used up."""
    rows = drawn(torch.full((5, 6), 1e4))
    cut = factors(squares(rows), clip_rule("per_layer", 2.0, NAMES))
    joint = torch.cat([r * cut[:, i : i + 1] for i, r in enumerate(rows)], 1).norm(dim=1)
    assert joint.tolist() == pytest.approx([2.0] * 5, rel=1e-5)


def test_small_gradients_pass_unchanged_but_for_automatic():
    rows = drawn(torch.full((4, 6), 1e-3))
    for kind in ("flat", "per_layer"):
        cut = factors(squares(rows), clip_rule(kind, 1.0, NAMES))
        assert torch.equal(cut, torch.ones(4, 6)) and not was_cut(cut).any()
    assert (factors(squares(rows), clip_rule("automatic", 1.0, NAMES)) > 10).all()


def test_an_example_counts_as_cut_when_any_layer_is():
    scales = torch.full((3, 6), 1e-3)
    scales[1, 4] = 100.0
    cut = factors(squares(drawn(scales)), clip_rule("per_layer", 1.0, NAMES))
    assert was_cut(cut).tolist() == [False, True, False]
    assert torch.equal(cut[1, :4], torch.ones(4)) and (cut[1, 4:] < 1).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
def test_one_bad_tensor_drops_the_whole_example_and_no_other(kind, bad):
    rule = clip_rule(kind, 1.0, NAMES)
    values = squares(drawn(torch.full((5, 6), 2.0)))
    clean = factors(values, rule)
    values[2, 4] = bad
    values[2, 5] = bad  # two of 3e38 overflow together
    found = factors(values, rule)
    assert torch.equal(found[2], torch.zeros(6))
    others = [0, 1, 3, 4]
    assert torch.equal(found[others], clean[others])
    assert factors(torch.zeros(0, 6), rule).shape == (0, 6)


def test_layers_are_counted_over_what_is_trained_now():
    """RoLoRA trains one factor a round: a site is one layer with one tensor."""
    rule = clip_rule("per_layer", 2.0, ("x.q.lora_b", "x.v.lora_b"))
    assert dict(rule.groups) == {"x.q.lora_b": 0, "x.v.lora_b": 1}
    assert rule.group_bound == pytest.approx(2.0 / math.sqrt(2))
