"""Exports of models of images: adapter and merged weights give the run's own scores."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageClassification

from ffalora_cli.export.peft import merged_model, write_adapter, write_merged
from ffalora_cli.models.families.vision import takes_any_size
from tests.export.test_export import config, drawn
from tests.tiny import IMAGE_MODELS, tiny_image_network, tiny_images


@pytest.mark.parametrize("side", [32, 48], ids=["own_size", "other_size"])
@pytest.mark.parametrize("family", IMAGE_MODELS)
def test_peft_and_the_merged_model_score_as_in_training(family, side, tmp_path):
    network, inputs = tiny_image_network(family), tiny_images(5, side).inputs(np.arange(5))
    base, values = copy.deepcopy(network.plain), drawn(network)
    write_adapter(tmp_path, network, values, (), scaled(network))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["task_type"] is None
    write_merged(tmp_path / "full", merged_model(network, values, {}), {})
    full = AutoModelForImageClassification.from_pretrained(tmp_path / "full").eval()
    with torch.no_grad():
        ours, size = network.outputs(inputs, values), takes_any_size(base)
        assert (ours - base(**inputs, **size).logits).abs().max() > 0.1
        assert (ours - full(**inputs, **size).logits).abs().max() < 2e-4
        adapted = PeftModel.from_pretrained(base, tmp_path).eval()
        assert (ours - adapted(**inputs, **size).logits).abs().max() < 2e-4


def scaled(network):
    """A configuration with the network's rank and alpha."""
    found = config()
    adapter = {"rank": network.rank, "alpha": network.scale * network.rank}
    return replace(found, adapter=replace(found.adapter, **adapter))
