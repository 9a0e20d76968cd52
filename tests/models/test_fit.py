"""Tokenizer, model, task and adapter against each other: what cannot work is one line, early."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ffalora_cli.adapters.sites import DECODERS
from ffalora_cli.cli.main import main
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.models.backbone import load_skeleton, load_tokenizer
from ffalora_cli.models.fit import check_fit, check_tokens
from tests.tiny import FAMILIES as TESTED
from tests.tiny import save_tiny_bert

DEFAULT = plan([])[0].config
PACKAGED = load_tokenizer(DEFAULT.model)
NARROW = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VOCABULARY = len(PACKAGED)


def skeleton(family: str, folder: Path, **settings: object):
    """A family's modules from a configuration file alone: no weights are written or read."""
    settings = {"model_type": family, "vocab_size": VOCABULARY, **settings}
    (folder / "config.json").write_text(json.dumps(settings))
    return load_skeleton(replace(DEFAULT.model, source=str(folder)), DEFAULT.task)


def check(skeleton, tokenizer=PACKAGED, **sections: dict[str, object]) -> list[str]:
    """``check_fit`` of the default configuration with some settings changed."""
    changed = {name: replace(getattr(DEFAULT, name), **s) for name, s in sections.items()}
    return check_fit(skeleton, tokenizer, replace(DEFAULT, **changed))


@pytest.fixture(scope="module")
def no_pad(tmp_path_factory):
    """The packaged vocabulary with no padding token, loaded as a run would."""
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("no_pad")
    backend = type(PACKAGED.backend_tokenizer).from_str(PACKAGED.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    made = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=512, **names)
    made.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **NARROW}))
    found = load_tokenizer(replace(DEFAULT.model, source=str(folder)))
    assert found.pad_token_id is None
    return found


def test_what_fits_is_silent(tmp_path):
    assert check(load_skeleton(DEFAULT.model, DEFAULT.task)) == []
    assert check(skeleton("roberta", tmp_path, **NARROW, max_position_embeddings=130)) == []


def test_a_vocabulary_beyond_the_embedding_is_refused(tmp_path):
    model = skeleton("bert", tmp_path, **NARROW, vocab_size=VOCABULARY - 1)
    with pytest.raises(ConfigError, match=rf"ids up to {VOCABULARY - 1}, its embedding .* rows;"):
        check(model)


@pytest.mark.parametrize(
    ("family", "positions", "most"),
    [("bert", 64, 64), ("roberta", 66, 64), ("xlm-roberta", 66, 64), ("electra", 64, 64)],
)
def test_rows_longer_than_the_table_of_positions_are_refused(family, positions, most, tmp_path):
    """The limit is exact: the model itself reads so many tokens and fails on one more."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = skeleton(family, tmp_path, **NARROW, max_position_embeddings=positions)
    assert check(model, task={"max_length": most}) == []
    with pytest.raises(ConfigError, match=f"up to {most} tokens.*; set task.max_length={most}$"):
        check(model, task={"max_length": most + 1})
    real = AutoModelForSequenceClassification.from_config(model.config)
    real(torch.full((1, most), 5))
    with pytest.raises((IndexError, RuntimeError)):
        real(torch.full((1, most + 1), 5))


def test_relative_positions_have_no_limit(tmp_path):
    model = skeleton(
        "deberta-v2", tmp_path, **NARROW, max_position_embeddings=16, relative_attention=True,
        position_biased_input=False, pos_att_type=["p2c", "c2p"],
    )  # fmt: skip
    patterns = {"query_value": ("query_proj", "value_proj")}
    assert check(model, model={"targets": patterns}, task={"max_length": 128}) == []


def test_a_pad_token_is_needed_only_where_rows_are_padded(no_pad, tmp_path):
    model = skeleton("bert", tmp_path, **NARROW)
    assert check(model, no_pad) == []
    for sections, why in (
        ({"engine": {"name": "reference"}}, "engine=reference pads"),
        ({"adapter": {"dropout": 0.1}}, "adapter.dropout pads"),
        ({"model": {"dropout": "own"}}, "model.dropout pads"),
    ):
        with pytest.raises(ConfigError, match=rf"no pad token, and {why}; set pad_token"):
            check(model, no_pad, **sections)
    assert check(skeleton("electra", tmp_path, **NARROW), no_pad) == []
    sites = {"targets": {"query_value": ("query_proj",)}}
    with pytest.raises(ConfigError, match="a deberta-v2 model pads: its attention is not"):
        check(skeleton("deberta-v2", tmp_path, **NARROW), no_pad, model=sites)


def test_a_run_without_a_pad_token_works_where_nothing_is_padded(no_pad, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path(save_tiny_bert(tmp_path / "model"))
    no_pad.save_pretrained(folder)
    words = ["debug=tiny", "model.source=./model", "privacy=none", "--quiet"]
    assert main(["run", *words]) == 0
    assert main(["run", *words, "engine=reference"]) == 2
    assert len(list(Path("runs").iterdir())) == 1


def test_a_rank_above_the_width(tmp_path):
    model = skeleton("bert", tmp_path, **NARROW)
    (said,) = check(model, adapter={"rank": 20})
    assert said.startswith("adapter.rank=20 is above a layer's width of 16")
    assert check(model, adapter={"rank": 16, "init": "orthogonal"}) == []
    with pytest.raises(ConfigError, match=r"20 rows cannot be orthogonal .*=16 or less"):
        check(model, adapter={"rank": 20, "init": "orthogonal"})


OTHERS = {
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "pad_token_id": 0},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2},
    "bart": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1},
    "llama": {**NARROW, "intermediate_size": 16},
    "mpnet": {**NARROW, "intermediate_size": 16},
    "vit": {"hidden_size": 16},
}


@pytest.mark.parametrize("family", OTHERS)
def test_another_family_is_named_and_what_to_type(family, tmp_path, capsys):
    PACKAGED.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": family, "vocab_size": VOCABULARY, **OTHERS[family]})
    )
    runs = tmp_path / "runs"
    where = [f"model.source={tmp_path}", f"paths.runs={runs}"]
    capsys.readouterr()
    assert main(["run", *where, "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{family} model" in line and not runs.exists()
    if "name those to adapt" not in line:
        assert all(name in line for name in TESTED)
    assert ("take model=auto" in line) == (family in DECODERS)


def test_known_family_with_wrong_targets_is_sent_to_auto(tmp_path):
    with pytest.raises(ConfigError, match=r"of this electra model.*; take model=auto, which"):
        check(skeleton("electra", tmp_path, **NARROW), model={"targets": {"query_value": ("q",)}})


def test_a_folder_without_tokenizer_files_is_refused(tmp_path, monkeypatch, capsys):
    """transformers would make one up, and the run would learn from rows without a word."""
    monkeypatch.chdir(tmp_path)
    whole = Path(save_tiny_bert(tmp_path / "whole"))
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(whole / name, tmp_path / "bare" / name)
    capsys.readouterr()
    for verb in ("run", "plan", "validate"):
        assert main([verb, "model.source=./bare", "privacy=none"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "model.source='./bare': no tokenizer files there" in line
    assert not Path("runs").exists()


def rows_of(*texts: str) -> tuple[np.ndarray, np.ndarray]:
    tokens = [PACKAGED(text)["input_ids"] for text in texts]
    return np.concatenate(tokens), np.array([len(row) for row in tokens])


def test_unknown_and_cut_tokens_are_said_with_their_share():
    strange = "\u1234"  # one letter of a script that the vocabulary lacks: one unknown token
    assert PACKAGED(strange)["input_ids"][1:-1] == [PACKAGED.unk_token_id]
    known = "a film of many good words"
    assert check_tokens(*rows_of(known, known), PACKAGED, DEFAULT) == []
    (said,) = check_tokens(*rows_of(f"{known} {strange}"), PACKAGED, DEFAULT)
    assert said.startswith("14% of the training rows' tokens are unknown")  # one of seven
    for texts in ([f"good {strange}"], [strange], ["", ""]):
        with pytest.raises(ConfigError, match=r"(50|100)% of the training rows' tokens are unk"):
            check_tokens(*rows_of(*texts), PACKAGED, DEFAULT)
    short = replace(DEFAULT, task=replace(DEFAULT.task, max_length=8))
    (said,) = check_tokens(*rows_of(known, "good"), PACKAGED, short)
    assert said.startswith("50% of the training rows fill task.max_length=8")
