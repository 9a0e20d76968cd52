"""Images: gradients of every family, and of any size; a run from its configuration to its end."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ffalora_cli.cli.main import main
from ffalora_cli.engine.build import build_engine
from ffalora_cli.engine.stacked.engine import StackedEngine
from scripts.chaos import breaks
from scripts.chaos.workload import Workload
from scripts.make_digits import main as make_digits
from tests.engine.test_engines import gap, job
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


@pytest.mark.parametrize("family", ["vit", "dinov2"])
def test_both_engines_train_the_same(family):
    network, examples = tiny_image_network(family), tiny_images(60)
    both = [
        build_engine(name, network, examples, 96).train(job(network))
        for name in ("stacked", "reference")
    ]
    assert both[0].padded_tokens == both[0].tokens == both[1].padded_tokens
    assert gap(both[0].trained, both[1].trained) < 1e-4


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Settings of a short private run on scikit-learn's digits."""
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("digits")
    make_digits(folder)
    return [
        "task=digits", "model=vit_small", f"model.source={folder / 'vit'}", f"paths.data={folder}",
        "debug=tiny", "federation.rounds=3", "privacy.accountant=rdp",
    ]  # fmt: skip


def test_a_run_of_images_goes_on_where_it_was_stopped(digits, tmp_path):
    load = Workload.build(digits)
    assert load.parts.padding is None and load.parts.data.train.lengths.max() == 17
    wanted, total = breaks.unbroken(load, tmp_path), breaks.calls(load, tmp_path)
    assert breaks.crash(load, tmp_path / "trial", total // 2, wanted) is None


@pytest.mark.parametrize("verb", ["validate", "plan", "partition"])
def test_verbs_before_a_run_know_images(verb, digits, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([verb, *digits]) == 0
    said = capsys.readouterr().out
    assert {"validate": "digits", "plan": "none", "partition": "10 labels"}[verb] in said
    assert "pads" not in said


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("task.image_size=30", "task.image_size=30 is no whole number"),
        ("task.image_column=img", "has no column 'img'"),
        ("task.prompt=x", "task.prompt is of another task.kind"),
        ("model=minilm", "no preprocessor_config.json there"),
    ],
)
def test_what_cannot_be_is_one_line(typed, said, digits, capsys):
    settings = [s for s in digits if not (typed == "model=minilm" and s.startswith("model."))]
    assert main(["plan", *settings, typed]) == 2
    found = capsys.readouterr().err.strip()
    assert said in found and len(found.splitlines()) == 1
