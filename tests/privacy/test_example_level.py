from __future__ import annotations

import itertools

import pytest
import torch

from ffalora_cli.privacy.mechanism.example_level import noise_stack
from ffalora_cli.privacy.mechanism.secret import run_secret

SHAPES = {"q.lora_b": (64, 8), "v.lora_b": (64, 8), "head.bias": (2,)}
SECRET = run_secret("reproducible", 0, "signature", "inputs")


def draw(clients=(0, 1), sd=1.0, secret=SECRET, round=1, step=0, shapes=SHAPES):
    return noise_stack(shapes, clients, torch.full((len(clients),), sd), secret, round, step)


def test_same_key_same_bits_in_any_company():
    whole = draw((3, 7, 9))
    for order in itertools.permutations((3, 7, 9)):
        other = draw(order)
        for slot, client in enumerate(order):
            for name in SHAPES:
                assert torch.equal(other[name][slot], whole[name][(3, 7, 9).index(client)])
    alone = draw((7,), shapes={"v.lora_b": (64, 8)})
    assert torch.equal(alone["v.lora_b"][0], whole["v.lora_b"][1])


def test_no_two_draws_are_related():
    shapes = {"q.lora_b": (128, 32), "v.lora_b": (128, 32)}
    flat = []
    for secret in (SECRET, run_secret("reproducible", 1, "signature", "inputs")):
        for round, step in ((1, 0), (1, 1), (2, 0), (0, 1)):
            stack = draw((0, 1, 10), secret=secret, round=round, step=step, shapes=shapes)
            flat += [row.flatten() for tensor in stack.values() for row in tensor]
    values = torch.stack(flat).double()  # [48, 4096]
    correlation = torch.corrcoef(values) - torch.eye(len(values))
    assert correlation.abs().max() < 5.5 / 4096**0.5


def test_sd_is_the_one_asked_for_per_client():
    shapes = {"a": (400, 500)}
    sd = torch.tensor([0.5, 2.0, 40.0])
    noise = noise_stack(shapes, [0, 1, 2], sd, SECRET, 1, 0)["a"]
    assert noise.dtype == torch.float32
    measured = noise.flatten(1).std(1)
    assert measured.tolist() == pytest.approx(sd.tolist(), rel=0.008)  # 5 sd of the estimate
    assert (noise.flatten(1).mean(1) / sd).abs().max() < 5 / 200_000**0.5


def test_an_empty_cohort_draws_nothing():
    assert draw(())["q.lora_b"].shape == (0, 64, 8)
