"""Language models and images: both engines agree, and one more row moves a sum by C at most."""

from __future__ import annotations

import numpy as np
import pytest

from ffalora_cli.audit.mechanism.one_more import furthest_move
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.engine.build import build_engine
from ffalora_cli.engine.correctness import check_per_example_gradients
from ffalora_cli.engine.job import LocalOptimizer
from tests.engine.test_engines import gap, job
from tests.language import answered, language_network
from tests.tiny import tiny_image_network, tiny_images

ROWS = 36
LANGUAGE = ("llama", "gemma2", "gpt2", "phi3", "gpt_neox")
IMAGES = ("vit", "dinov2")
KINDS = [("llama", "mean"), ("llama", "sum"), ("gpt2", "mean"), ("vit", "")]


def subject(family, reduction="mean"):
    if family in (*IMAGES, "swin"):
        return tiny_image_network(family), tiny_images(ROWS)
    return language_network(family), answered(ROWS, reduction)


@pytest.mark.parametrize("private", [True, False], ids=["private", "plain"])
@pytest.mark.parametrize("family", [*LANGUAGE, *IMAGES])
def test_the_stacked_engine_equals_the_reference(family, private):
    network, examples = subject(family)
    optimizer = LocalOptimizer("sgd", 0.1 if private else 0.02)
    factors = ("lora_a", "lora_b")
    work = job(network, factors=factors, head=True, private=private, optimizer=optimizer)
    stacked = build_engine("stacked", network, examples, 64).train(work)
    reference = build_engine("reference", network, examples, 64).train(work)
    assert gap(stacked.trained, reference.trained) < 1e-5
    assert gap(stacked.trained, {n: work.start[n] for n in work.trainable}) > 1e-3
    np.testing.assert_array_equal(stacked.clipped, reference.clipped)
    np.testing.assert_allclose(stacked.loss_sum, reference.loss_sum, rtol=1e-5)


@pytest.mark.parametrize(("family", "reduction"), KINDS)
def test_one_more_row_moves_the_sum_by_at_most_the_clip(family, reduction):
    """Answers long and short, gradients too."""
    network, examples = subject(family, reduction)
    check_per_example_gradients(network, examples, list(network.initial))
    trained = [spec.name for spec in network.specs if spec.kind == "adapter"]
    for name in ("stacked", "reference"):
        engine = build_engine(name, network, examples, 64)
        for c in (2.0, 0.02):
            assert 0.1 < furthest_move(engine, network, trained, ROWS, c) <= 1.0 + 1e-6


def test_the_reference_engine_refuses_windows_of_an_image():
    network, examples = subject("swin")
    with pytest.raises(ConfigError, match="use engine=stacked"):
        check_per_example_gradients(network, examples, list(network.initial))
