from __future__ import annotations

import pytest
import torch

from ffalora_cli.privacy.mechanism.client_level import clip_updates, private_mean

SECRET = b"s" * 32


def updates(clients=5):
    generator = torch.Generator().manual_seed(1)
    return {
        "q.lora_b": torch.randn(clients, 6, 4, generator=generator),
        "head.bias": torch.randn(clients, 3, generator=generator),
    }


def joint_norms(stack):
    return torch.cat([value.flatten(1) for value in stack.values()], 1).double().norm(dim=1)


def test_one_norm_over_all_tensors():
    stack = updates()
    clipped, norms = clip_updates(stack, 2.0)
    assert norms.tolist() == pytest.approx(joint_norms(stack).tolist(), rel=1e-6)
    assert joint_norms(clipped).tolist() == pytest.approx([2.0] * 5, rel=1e-5)
    assert (joint_norms(clipped) <= 2.0 * (1 + 1e-6)).all()
    # direction kept: every tensor shrinks by the same factor
    ratio = clipped["q.lora_b"][2] / stack["q.lora_b"][2]
    other = clipped["head.bias"][2] / stack["head.bias"][2]
    assert torch.allclose(ratio, other[0].expand_as(ratio), rtol=1e-5)


def test_small_and_zero_updates_pass_unchanged():
    stack = {name: value * 0.01 for name, value in updates().items()}
    stack["q.lora_b"][1], stack["head.bias"][1] = 0.0, 0.0
    clipped, _ = clip_updates(stack, 2.0)
    assert all(torch.equal(clipped[name], stack[name]) for name in stack)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30, 3e38])
def test_a_bad_upload_changes_the_sum_by_at_most_the_clip(bad):
    stack = updates()
    clean, _ = clip_updates(stack, 2.0)
    stack["head.bias"][3, 1] = bad
    clipped, norms = clip_updates(stack, 2.0)
    for name in stack:
        others = [0, 1, 2, 4]
        assert torch.equal(clipped[name][others], clean[name][others])
        assert torch.isfinite(clipped[name]).all()
    norm = joint_norms(clipped)[3]
    if abs(bad) < float("inf"):
        assert norm == pytest.approx(2.0, rel=1e-5)
    else:
        assert norm == 0.0 and not torch.isfinite(norms[3])


def test_noise_once_on_the_sum_over_the_expected_cohort():
    total = {"a": torch.full((300, 400), 7.0), "b": torch.full((300, 400), 7.0)}
    mean = private_mean(total, 1.5, 2.0, 10.0, SECRET, 1)
    for value in mean.values():
        assert value.mean() == pytest.approx(0.7, abs=5 * 0.3 / 120_000**0.5)
        assert value.std() == pytest.approx(1.5 * 2.0 / 10.0, rel=0.011)
    noise = {name: value - 0.7 for name, value in mean.items()}
    pairs = [(noise["a"], noise["b"])]
    for changed in ((SECRET, 2), (b"t" * 32, 1)):
        pairs.append((noise["a"], private_mean(total, 1.5, 2.0, 10.0, *changed)["a"] - 0.7))
    for left, right in pairs:
        both = torch.stack([left.flatten(), right.flatten()]).double()
        assert torch.corrcoef(both)[0, 1].abs() < 5 / 120_000**0.5
    again = private_mean(total, 1.5, 2.0, 10.0, SECRET, 1)
    assert torch.equal(again["a"], mean["a"])


def test_an_empty_cohort_is_a_noise_only_round():
    clipped, norms = clip_updates(updates(clients=0), 2.0)
    assert norms.shape == (0,)
    total = {name: value.sum(0) for name, value in clipped.items()}
    mean = private_mean(total, 1.0, 2.0, 10.0, SECRET, 1)
    assert mean["q.lora_b"].shape == (6, 4) and mean["q.lora_b"].abs().min() > 0
