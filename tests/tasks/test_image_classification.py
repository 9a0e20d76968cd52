"""Images: gradients of every family, and of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ffalora_cli.engine.stacked.engine import StackedEngine
from tests.engine.test_per_example_gradients import ROWS, cohort, looped, opacus, worst
from tests.tiny import IMAGE_MODELS, tiny_image_network, tiny_images

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "mlp.fc1", "mlp.fc2")


@pytest.mark.parametrize("side", [32, 48], ids=["own_size", "other_size"])
@pytest.mark.parametrize("family", sorted(IMAGE_MODELS))
def test_per_example_gradients_are_those_of_a_loop_and_of_opacus(family, side):
    network, examples = tiny_image_network(family, ALL), tiny_images(ROWS, side)
    trained, common, slots, rows = cohort(network, examples, ("lora_a", "lora_b"), True)
    engine = StackedEngine(network, examples)
    _, found = engine.per_example_gradients(slots, rows, trained, {}, common)
    expected = looped(network, examples, trained, common, slots, rows)
    assert min(float(e.norm()) for n, e in expected.items() if "lora" in n) > 0
    assert worst(found, expected) < 1e-5
    if family != "swin":  # Opacus takes its windows for examples
        assert worst(found, opacus(network, examples, trained, common, slots, rows)) < 1e-5


@pytest.mark.parametrize("family", ["vit", "dinov2"])
def test_what_no_head_reads_changes_nothing(family):
    """The last layer's other rows are left out; the outputs are the plain model's."""
    network, examples = tiny_image_network(family, ALL), tiny_images(5, 48)
    inputs = examples.inputs(np.arange(5))
    with torch.no_grad():
        found = network.outputs(inputs, network.initial)
        assert torch.allclose(found, network.plain(**inputs).logits, rtol=1e-5, atol=1e-6)
