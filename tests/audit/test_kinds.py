"""The audit of language models and images: surrogates of every family, sensitivity, canaries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from ffalora_cli.audit.canary.answers import hidden_answers
from ffalora_cli.audit.canary.canaries import run_canaries
from ffalora_cli.audit.mechanism.one_more import one_more
from ffalora_cli.audit.mechanism.surrogate import SurrogateRows, build_subject, shrink
from ffalora_cli.audit.run import plan_of
from tests.audit.subjects import SIZES, config
from tests.language import FAMILIES, save_tiny_llama, task_of
from tests.tiny import IMAGE_MODELS, tiny_image_network

LANGUAGE, IMAGES = task_of(), task_of(kind="image_classification", image_column="image")


@pytest.mark.parametrize("family", [*FAMILIES, *IMAGE_MODELS])
def test_the_surrogate_keeps_the_architecture_of_every_family(family):
    full = transformers.CONFIG_MAPPING[family]()
    images = family in IMAGE_MODELS
    auto = transformers.AutoModelForImageClassification if images else None
    model = (auto or transformers.AutoModelForCausalLM).from_config(shrink(full, 64)).eval()
    assert sum(p.numel() for p in model.parameters()) < 400_000
    side = getattr(model.config, "image_size", 0)
    inputs = {"pixel_values": torch.zeros(2, 3, side, side)}
    found = model(**inputs if images else {"input_ids": torch.ones(2, 5, dtype=torch.int64)})
    assert found.logits.shape == ((2, 64) if images else (2, 5, 64))


@pytest.fixture(scope="module", params=["language", "images"])
def audited(request, tmp_path_factory):
    """A subject of each kind, on the embedded default's plan."""
    folder, found = tmp_path_factory.mktemp("model"), config("head.mode=frozen")
    targets = {found.adapter.targets: ("q_proj", "v_proj")}
    if request.param == "language":
        task, source = LANGUAGE, save_tiny_llama(folder)
    else:
        task, source = IMAGES, folder
        tiny_image_network("vit").plain.config.save_pretrained(folder)
    model = replace(found.model, source=str(source), targets=targets)
    found = replace(found, task=task, model=model)
    plan = plan_of(found, SIZES)
    assert plan.content == ("text" if request.param == "language" else "image")
    return build_subject(found, plan, b"k" * 32)


def test_one_real_row_more_moves_the_sum_by_at_most_the_clip(audited):
    found = one_more(audited)
    assert found.passed and found.statistic > 0.5


def test_canaries_bound_epsilon_below_the_claim(audited):
    for bound in run_canaries(audited, canaries=200, steps=8):
        assert not bound.rigorous or bound.epsilon_lower <= audited.plan.epsilon_planned.max()


@pytest.mark.parametrize("audited", ["language"], indirect=True)
def test_hidden_answers_are_found_in_a_model_without_noise_and_less_in_one_with_it(audited):
    noise = np.zeros(audited.plan.num_clients)
    quiet = replace(audited, plan=replace(audited.plan, noise_multiplier=noise))
    found, private = (hidden_answers(one, canaries=60, steps=20) for one in (quiet, audited))
    assert found.epsilon_lower > 0.8
    assert private.epsilon_lower < min(found.epsilon_lower, audited.plan.epsilon_planned.max())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_answers_are_long_and_short_and_their_weights_the_run_s(reduction):
    targets = SurrogateRows(np.arange(61), replace(LANGUAGE, loss_reduction=reduction)).targets
    counts = np.diff(targets.offsets)
    assert counts.min() == 1 and counts.max() > 8
    sums = np.add.reduceat(targets.weights, targets.offsets[:-1])
    assert np.allclose(sums, 1.0 if reduction == "mean" else counts)
