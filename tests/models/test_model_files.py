"""Which files of a model decide what it computes: in a folder, in shards, in the hub's cache."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.experiment.inputs import Inputs, InputsCheck, inputs_of
from ffalora_cli.models.backbone import load_tokenizer
from ffalora_cli.models.source import check_processor_files, model_files

CONFIG = plan([])[0].config
COMMITS = ("a" * 40, "b" * 40)


def model(source, **changes):
    return replace(CONFIG.model, source=str(source), **changes)


def names(files):
    return [path.name for path in files]


def test_weights_are_one_file_or_an_index_with_all_of_its_shards(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle, never opened")
    assert model_files(model(tmp_path)).weights == ()
    assert names(model_files(model(tmp_path, random_weights=True)).weights) == ["config.json"]
    shards = ["model-1.safetensors", "model-2.safetensors"]
    index = {"weight_map": {"x": shards[1], "y": shards[0], "z": shards[0]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / shards[0]).write_bytes(b"1")
    assert model_files(model(tmp_path)).weights == ()  # a download that broke off
    (tmp_path / shards[1]).write_bytes(b"2")
    wanted = ["config.json", "model.safetensors.index.json", *shards]
    assert names(model_files(model(tmp_path)).weights) == wanted
    (tmp_path / "model.safetensors").write_bytes(b"3")  # comes first, as it does when loaded
    assert names(model_files(model(tmp_path)).weights) == ["config.json", "model.safetensors"]


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A hub cache with two commits of one model, main at the first; weights but no tokenizer."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--lab--tiny"
    for commit in COMMITS:
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        (snapshot / "model.safetensors").write_text(f"weights of {commit}")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMITS[0])
    return folder


def test_the_commit_of_a_cached_model_is_known(cached):
    assert model_files(model("lab/absent")) is None
    assert model_files(model("lab/tiny")).commit == COMMITS[0]
    assert model_files(model("lab/tiny", revision=COMMITS[1])).commit == COMMITS[1]
    found = replace(CONFIG, model=model("lab/tiny"))
    assert (
        inputs_of(found).weights
        != inputs_of(replace(CONFIG, model=model("lab/tiny", revision=COMMITS[1]))).weights
    )


def test_a_moved_main_is_refused_and_the_old_commit_named(cached, tmp_path):
    config = replace(CONFIG, model=model("lab/tiny"))
    before = inputs_of(config)
    (tmp_path / "manifest.json").write_text(json.dumps({"inputs": vars(before)}))
    assert InputsCheck().check(tmp_path, config).endswith("now: the tokenizer")  # there is none
    (cached / "refs" / "main").write_text(COMMITS[1])
    with pytest.raises(ConfigError, match=f"weights changed .*set model.revision={COMMITS[0]}"):
        InputsCheck().check(tmp_path, config)
    assert isinstance(before, Inputs) and before.commit == COMMITS[0]


def test_a_folder_without_a_tokenizer_is_refused_from_its_names_alone(tmp_path, cached):
    check_processor_files(model("lab/tiny"), False)  # of the hub: it may still come
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="no tokenizer files there"):
        check_processor_files(model(tmp_path), False)
    (tmp_path / "vocab.txt").write_text("word")
    check_processor_files(model(tmp_path), False)


def test_the_packaged_model_has_everything():
    files = model_files(CONFIG.model)
    assert names(files.weights) == ["config.json", "model.safetensors"] and files.commit is None
    assert {"tokenizer.json", "vocab.txt"} <= set(names(files.tokenizer))
    check_processor_files(CONFIG.model, False)
    assert len(load_tokenizer(CONFIG.model)) > 30_000
