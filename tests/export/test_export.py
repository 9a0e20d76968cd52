"""An export's files as ``peft`` and ``transformers`` read them, against our own forward pass."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError, RunFailed
from ffalora_cli.config.schema import AdapterConfig
from ffalora_cli.export import hub
from ffalora_cli.export.peft import (
    merged_model,
    public_source,
    whole_modules,
    write_adapter,
    write_merged,
)
from ffalora_cli.export.trained_model import TrainedModel
from ffalora_cli.federation.cohort.clients import ClientStates
from ffalora_cli.models.backbone import Backbone
from ffalora_cli.models.network import build_network
from ffalora_cli.tasks import registry as tasks
from tests.tiny import MODELS, TinyExamples, tiny_model, tiny_network

RANK, ALPHA = 3, 7.5  # a scale that no default has


def config():
    job = plan(["privacy=none", f"adapter.rank={RANK}", f"adapter.alpha={ALPHA}"])[0]
    return job.config


def drawn(network, seed=1):
    """Factors and head, none of them as at the start."""
    generator = torch.Generator().manual_seed(seed)
    return {
        s.name: network.initial[s.name] + 0.3 * torch.randn(s.shape, generator=generator)
        for s in network.specs
    }


def subject(family):
    network = tiny_network(family, rank=RANK, alpha=ALPHA)
    examples = TinyExamples(12, pad_id=1 if family == "roberta" else 0)
    order = np.argsort(-examples.lengths, kind="stable")
    return network, drawn(network), examples, order


def plain_logits(model, examples, order):
    with torch.no_grad():
        return model(**examples.inputs(order)).logits


@pytest.mark.parametrize("family", MODELS)
def test_peft_computes_the_same_from_the_adapter(family, tmp_path):
    network, values, examples, order = subject(family)
    ours = network.outputs(network.inputs(examples, order), values)
    write_adapter(tmp_path, network, values, (), config())
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["fan_in_fan_out"] == (family == "gpt2")
    base = tiny_model(family)
    for name, parameter in base.named_parameters():
        if not name.startswith(base.base_model_prefix + "."):
            parameter.zero_()  # the head must come from the file
    model = PeftModel.from_pretrained(base, tmp_path).eval()
    theirs = plain_logits(model, examples, order)
    assert (ours - theirs).abs().max() < 2e-5
    assert (ours - plain_logits(tiny_model(family), examples, order)).abs().max() > 0.1


@pytest.mark.parametrize("family", sorted(set(MODELS) - {"albert"}))
def test_peft_computes_the_same_where_only_the_last_layer_has_an_adapter(family, tmp_path):
    adapter = AdapterConfig(RANK, ALPHA, "query_value", "kaiming", 0, 0.0, layers=1)
    backbone = Backbone(tiny_model(family), "tiny", (), tasks.get("text_classification"))
    network = build_network(backbone, adapter, MODELS[family][2])
    examples = TinyExamples(12, pad_id=1 if family == "roberta" else 0)
    order, values = np.argsort(-examples.lengths, kind="stable"), drawn(network)
    ours = network.outputs(network.inputs(examples, order), values)
    write_adapter(tmp_path, network, values, (), config())
    model = PeftModel.from_pretrained(tiny_model(family), tmp_path).eval()
    assert (ours - plain_logits(model, examples, order)).abs().max() < 2e-5
    assert all(".1." in site.name for site in network.sites)


@pytest.mark.parametrize("family", MODELS)
def test_the_merged_model_computes_the_same_with_merges_in_the_base(family, tmp_path):
    network, values, examples, order = subject(family)
    network.plain.config.problem_type = "multi_label_classification"  # its base's, not the task's
    delta = {s.name: 0.1 * torch.randn(s.d_out, s.d_in) for s in network.sites}
    before = {name: p.clone() for name, p in network.plain.named_parameters()}
    network.add_to_base(delta)
    ours = network.outputs(network.inputs(examples, order), values)
    task = replace(config().task, classes=("a", "b", "c"))
    settings = tasks.get(task.kind).settings(task)
    write_merged(tmp_path, merged_model(network, values, delta), settings)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert (ours - plain_logits(model, examples, order)).abs().max() < 2e-5
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model.config.problem_type == "single_label_classification"
    assert all(torch.equal(p, before[name]) for name, p in network.plain.named_parameters())
    assert {f.suffix for f in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_a_drawn_pooler_travels_with_the_adapter(tmp_path):
    network, values, examples, order = subject("bert")
    missing = ("bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight")
    assert whole_modules(network, missing) == ["bert.pooler.dense", "classifier"]
    write_adapter(tmp_path, network, values, missing, config())
    base = tiny_model("bert")
    base.bert.pooler.dense.weight.zero_()
    model = PeftModel.from_pretrained(base, tmp_path).eval()
    ours = network.outputs(network.inputs(examples, order), values)
    assert (ours - plain_logits(model, examples, order)).abs().max() < 2e-5


def test_scale_and_source_are_kept_and_no_path_is(tmp_path):
    network, values, *_ = subject("bert")
    settings = config()
    settings = replace(settings, model=replace(settings.model, source="~/models/mine"))
    write_adapter(tmp_path, network, values, (), settings)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (
        written["lora_alpha"] / written["r"]
        == AdapterConfig(RANK, ALPHA, "query_value", "kaiming", 0, 0.0).scale
    )
    assert written["base_model_name_or_path"] == "mine"
    assert public_source("FacebookAI/roberta-large") == "FacebookAI/roberta-large"


def test_one_clients_model_takes_its_own_tensors():
    states = ClientStates(3)
    states.scatter(np.array([2]), {"s.lora_b": torch.full((1, 4, 2), 5.0)})
    initial = {"s.lora_a": torch.ones(2, 4), "s.lora_b": torch.zeros(4, 2)}
    model = TrainedModel(1, {"s.lora_a": torch.full((2, 4), 3.0)}, {}, states.to_tensors())
    own, other = model.values(initial, 2), model.values(initial, 0)
    assert torch.equal(own["s.lora_b"], torch.full((4, 2), 5.0))
    assert torch.equal(other["s.lora_b"], torch.zeros(4, 2))
    assert torch.equal(own["s.lora_a"], torch.full((2, 4), 3.0))
    for client in (None, -1, 3):
        with pytest.raises(ConfigError, match=r"lora_b stay with each client.*--client 0 to 2"):
            model.values(initial, client)
    with pytest.raises(ConfigError, match="leave --client out"):
        TrainedModel(1, {}, {}, None).values(initial, 0)


class Hub:
    """What ``HfApi`` is asked for."""

    calls: ClassVar[list[tuple[str, dict]]] = []

    def create_repo(self, repository, **options):
        self.calls.append((repository, options))
        return f"https://hub.example/{repository}"

    def upload_folder(self, **options):
        self.calls.append(("upload", options))


def online(monkeypatch, api, token="hf_x"):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token)
    monkeypatch.setattr("huggingface_hub.HfApi", api)


def test_push_makes_a_private_repository_and_uploads_the_folder(tmp_path, monkeypatch):
    online(monkeypatch, Hub)
    Hub.calls.clear()
    assert hub.push(tmp_path, "me/model") == "https://hub.example/me/model"
    (name, made), (_, sent) = Hub.calls
    assert (name, made) == ("me/model", {"private": True, "exist_ok": True})
    assert sent["folder_path"] == tmp_path and sent["repo_id"] == "me/model"


def test_push_that_cannot_be_done_says_what_to_do_later(tmp_path, monkeypatch):
    refused = SimpleNamespace(create_repo=lambda *a, **k: (_ for _ in ()).throw(OSError("403\nno")))
    online(monkeypatch, lambda: refused)
    with pytest.raises(RunFailed, match=r"not pushed \(OSError: 403 no\).*hf upload me/model"):
        hub.push(tmp_path, "me/model")
    online(monkeypatch, Hub, token=None)
    with pytest.raises(RunFailed, match="no hub token"):
        hub.push(tmp_path, "me/model")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "yes")
    with pytest.raises(RunFailed, match="HF_HUB_OFFLINE=yes"):
        hub.push(tmp_path, "me/model")


@pytest.mark.parametrize("name", ["model", "a/b/c", "me/mo del", "/model", ""])
def test_a_repository_has_a_user_and_a_name(name):
    with pytest.raises(ConfigError, match="USER/REPO"):
        hub.check_repository(name)
