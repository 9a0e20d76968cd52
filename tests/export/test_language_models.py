"""Exports of language models: adapter and merged weights give the run's own scores."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from ffalora_cli.export.peft import merged_model, write_adapter, write_merged
from ffalora_cli.tasks.causal_lm import TASK
from tests.export.test_export import ALPHA, RANK, config, drawn
from tests.language import FAMILIES, answered, language_network


def subject(family, **settings):
    network = language_network(family, RANK, ALPHA, **settings)
    base = copy.deepcopy(network.plain)
    examples = answered(12)
    order = np.argsort(-examples.lengths, kind="stable")
    return base, network, drawn(network), examples, order


def ours(network, values, examples, order):
    targets = examples.targets.batch(order)
    with torch.no_grad():
        return network.outputs(network.inputs(examples, order), values, targets)


def theirs(model, examples, order):
    with torch.no_grad():
        return examples.targets.batch(order).read(model(**examples.inputs(order)).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_and_the_merged_model_score_as_in_training(family, tmp_path):
    base, network, values, examples, order = subject(family)
    found = ours(network, values, examples, order)
    assert (found - theirs(base, examples, order)).abs().max() > 0.1
    write_merged(tmp_path / "full", merged_model(network, values, {}), TASK.settings(config().task))
    full = AutoModelForCausalLM.from_pretrained(tmp_path / "full", **soft(family)).eval()
    assert (found - theirs(full, examples, order)).abs().max() < 2e-4
    write_adapter(tmp_path, network, values, (), config())
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["task_type"] == "CAUSAL_LM" and written["modules_to_save"] is None
    assert written["fan_in_fan_out"] == (family == "gpt2")
    adapted = PeftModel.from_pretrained(base, tmp_path).eval()
    assert (found - theirs(adapted, examples, order)).abs().max() < 2e-4


def soft(family):
    """Gemma-2's own attention; another leaves its soft caps out."""
    return {"attn_implementation": "eager"} if family == "gemma2" else {}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_tied_embeddings_are_written_once_and_tied_again(family, tmp_path):
    _, network, values, examples, order = subject(family, tie_word_embeddings=True)
    write_merged(tmp_path, merged_model(network, values, {}), {})
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "lm_head" in name]  # noqa: SIM118
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    words, scores = model.get_input_embeddings(), model.get_output_embeddings()
    assert words.weight.data_ptr() == scores.weight.data_ptr()
    found = ours(network, values, examples, order)
    assert (found - theirs(model, examples, order)).abs().max() < 2e-4
    assert (tmp_path / "generation_config.json").is_file()
