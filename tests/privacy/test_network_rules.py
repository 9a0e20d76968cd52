"""Networks and starts that no plan may cover, refused with the layer and the reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.experiment import parts
from ffalora_cli.experiment.parts import build
from ffalora_cli.methods import registry
from ffalora_cli.methods.base import AggregateContext
from ffalora_cli.models import network as network_module
from ffalora_cli.privacy.planning.network_rules import check_network
from ffalora_cli.types import ServerState
from tests.tiny import FAMILIES, save_tiny_bert, tiny_model, tiny_network


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_we_ship_passes(family):
    names = [spec.name for spec in tiny_network(family).specs]
    check_network(tiny_model(family), names, "kaiming")


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.SyncBatchNorm])
def test_batch_norm_is_refused_with_its_layer(kind):
    model = tiny_model("bert")
    model.bert.encoder.layer[1].output.LayerNorm = kind(32)
    with pytest.raises(ConfigError, match=r"layer\.1\.output\.LayerNorm.*mixes the examples"):
        check_network(model, [], "kaiming")


def test_a_trained_position_embedding_is_refused_and_a_frozen_one_is_not():
    model = tiny_model("bert")
    path = "bert.embeddings.position_embeddings"
    assert isinstance(model.get_submodule(path), nn.Embedding)
    check_network(model, [], "kaiming")
    with pytest.raises(ConfigError, match=r"position embedding.*leave it frozen"):
        check_network(model, [f"{path}.weight"], "kaiming")


def test_an_init_nobody_vouched_for_is_refused():
    for init in ("kaiming", "orthogonal"):
        check_network(tiny_model("bert"), [], init)
    with pytest.raises(ConfigError, match=r"adapter\.init='lora_ga'.*release"):
        check_network(tiny_model("bert"), [], "lora_ga")


def test_a_run_is_refused_before_its_first_round(tmp_path, monkeypatch):
    """The check stands where the plan is made; without privacy the same network runs."""
    original = network_module.load_backbone

    def with_batch_norm(*arguments):
        backbone = original(*arguments)
        backbone.model.bert.encoder.layer[0].output.LayerNorm = nn.BatchNorm1d(16)
        return backbone

    monkeypatch.setattr(network_module, "load_backbone", with_batch_norm)
    model = save_tiny_bert(tmp_path / "model")
    typed = ["model=auto", f"model.source={model}", "debug=tiny", f"paths.runs={tmp_path}"]
    (job,) = plan([*typed, "privacy.accountant=rdp"])

    class Silent:
        def note(self, text): ...

    with pytest.raises(ConfigError, match="BatchNorm"):
        build(job.config, job.signature, Silent())
    (job,) = plan([*typed, "privacy=none"])
    assert isinstance(build(job.config, job.signature, Silent()), parts.Parts)


def test_fedsvd_re_initialises_from_private_uploads_only():
    """Its new A is a function of the state and the (already noised) mean: post-processing."""
    network = tiny_network("bert")
    tensors = {n: v + 0.1 * torch.randn(v.shape) for n, v in network.initial.items()}
    state = ServerState(tensors, dict.fromkeys(tensors, 0))
    mean = {n: v for n, v in tensors.items() if n.endswith("lora_b")}
    context = AggregateContext(1, network.sites, network.scale, {})
    method = registry.get("fedsvd")
    one, two = (
        method.aggregate(state, mean, uploads, torch.ones(2) / 2, context)
        for uploads in (None, {n: torch.randn(2, *v.shape) for n, v in mean.items()})
    )
    assert method.linear and one.tensors.keys() == two.tensors.keys()
    for name, value in one.tensors.items():
        assert torch.equal(value, two.tensors[name])
    check_network(network.plain, mean, plan([])[0].config.adapter.init)
