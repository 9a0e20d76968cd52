"""Every language model of ``configs/model``: its patterns find layers, its misfits are one line."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from ffalora_cli.adapters.sites import DECODERS, find_sites, stores_transposed
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.models.backbone import load_skeleton, load_tokenizer
from ffalora_cli.models.fit import check_fit
from tests import ROOT

TINY = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY |= {"intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 40}
TINY |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "head_dim": 8}
OPT = {"ffn_dim": 48, "word_embed_proj_dim": 32}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "vocab_size": 64}
FAMILY = {
    "smollm2": "llama", "smollm2_135m": "llama", "llama_7b": "llama", "llama2_7b": "llama",
    "llama3_8b": "llama", "llama32_1b": "llama", "mistral_7b": "mistral", "qwen25_05b": "qwen2",
    "qwen3_06b": "qwen3", "gemma2_2b": "gemma2", "olmo2_1b": "olmo2", "phi3_mini": "phi3",
    "phi2": "phi", "opt_125m": "opt", "gpt2": "gpt2", "pythia_160m": "gpt_neox",
}  # fmt: skip
SITES = {"query_value": 2, "value": 1, "attention": 4}  # a layer, where nothing is fused
FUSED = {"phi3": (1, 1, 2), "gpt2": (1, 1, 2), "gpt_neox": (1, 1, 2)}


def tiny_decoder(family: str):
    """Modules of a random language model of a family, without values."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {"opt": TINY | OPT, "gpt2": GPT2}.get(family, TINY)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings))


def linears(model) -> set[str]:
    head = model.get_output_embeddings()
    return {
        name
        for name, module in model.named_modules()
        if module is not head and (isinstance(module, nn.Linear) or stores_transposed(module))
    }


def patterns(name: str) -> dict[str, tuple[str, ...]]:
    return plan([f"model={name}", "model.source=any/one"])[0].config.model.targets


@pytest.mark.parametrize("name", FAMILY)
def test_every_pattern_finds_its_layers(name):
    family = FAMILY[name]
    model, targets = tiny_decoder(family), patterns(name)
    counts = dict(zip(SITES, FUSED[family], strict=True)) if family in FUSED else SITES
    for pattern, count in counts.items():
        assert len(find_sites(model, targets[pattern])) == 2 * count, pattern
    assert {site.name for site in find_sites(model, targets["all_linear"])} == linears(model)


@pytest.mark.parametrize("family", DECODERS)
def test_auto_has_the_same_layers(family):
    """Every family has a model of its own, and both find what that one finds."""
    model, autos = tiny_decoder(family), [patterns("auto_decoder"), patterns("auto")]
    own = patterns(next(name for name, kind in FAMILY.items() if kind == family))
    for pattern, suffixes in own.items():
        for auto in autos:
            assert find_sites(model, auto[pattern]) == find_sites(model, suffixes), pattern


def test_a_family_without_known_names_is_told_its_layers_and_what_to_type(tokenizer, tmp_path):
    unknown = {"n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 64}
    with pytest.raises(ConfigError) as caught:
        fit(tmp_path, tokenizer, "ctrl", "model=auto", **unknown)
    assert "multi_head_attention.Wv (2 of 32 x 32), multi_head_attention.dense" in str(caught.value)
    typed = re.search(r"as in '(.*)'$", str(caught.value))[1]
    assert typed == ("model.targets.query_value=[multi_head_attention.Wq,multi_head_attention.Wv]")
    (said,) = fit(tmp_path, tokenizer, "ctrl", "model=auto", typed, **unknown)
    assert "a ctrl model is not tested" in said


def test_no_language_model_is_left_out():
    files = (ROOT / "configs" / "model").glob("*.yaml")
    found = {file.stem for file in files if "part of the frozen backbone" in file.read_text()}
    assert found == {*FAMILY, "auto_decoder"}


@pytest.fixture(scope="module")
def tokenizer():
    """The packaged words, with an end of text and no padding."""
    found = load_tokenizer(plan([])[0].config.model)
    found.eos_token, found.pad_token = "[SEP]", None
    return found


def fit(folder: Path, tokenizer, family: str, *words: str, **settings: object) -> list[str]:
    """``check_fit`` of a language model that is a configuration alone, on Dolly or another task."""
    own = {"opt": TINY | OPT, "gpt2": GPT2}.get(family, TINY)
    own = own | {"model_type": family, "vocab_size": len(tokenizer), **settings}
    (folder / "config.json").write_text(json.dumps(own))
    task = () if any(word.startswith("task=") for word in words) else ("task=dolly15k",)
    source = ("model=auto_decoder", f"model.source={folder}", "task.max_length=40", "privacy=none")
    config = plan([*task, *source, *words])[0].config
    return check_fit(load_skeleton(config.model, config.task), tokenizer, config)


@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_fits_up_to_its_context_and_needs_no_padding(family, tokenizer, tmp_path):
    assert fit(tmp_path, tokenizer, family) == []
    with pytest.raises(ConfigError, match=r"context is 40 tokens; set task\.max_length=40$"):
        fit(tmp_path, tokenizer, family, "task.max_length=41")


def test_an_encoder_cannot_write(tokenizer, tmp_path):
    with pytest.raises(ConfigError, match=r"a bert model reads both ways.*model=smollm2"):
        fit(tmp_path, tokenizer, "bert", "model.targets.query_value=[query]")


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_a_decoder_classifies_without_a_pad_token(family, tokenizer, tmp_path):
    words = ("task=bbc_news", "engine=reference", "task.max_length=40")
    assert fit(tmp_path, tokenizer, family, *words, pad_token_id=None) == []


def test_padding_that_a_text_ends_with_is_refused(tokenizer, tmp_path):
    """The packaged words end every text with [SEP]; a head that passes by it would read another."""
    words, end = ("task=bbc_news", "task.max_length=40"), tokenizer.eos_token_id
    with pytest.raises(ConfigError, match=r"texts end with '\[SEP\]', which is its padding"):
        fit(tmp_path, tokenizer, "llama", *words, pad_token_id=end)
    assert fit(tmp_path, tokenizer, "llama", *words, pad_token_id=None, eos_token_id=end) == []


def test_what_its_tokenizer_lacks_is_said(tokenizer, tmp_path):
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    with pytest.raises(ConfigError, match=r"no token that ends a text.*set eos_token"):
        fit(tmp_path, endless, "llama")
    chat = ("task.messages_column=chat", "task.prompt=null", "task.completion=null")
    with pytest.raises(ConfigError, match="has no chat template; use a model tuned on chats"):
        fit(tmp_path, tokenizer, "llama", *chat)
    spoken = copy.deepcopy(tokenizer)
    spoken.chat_template = "{{ messages }}"
    assert fit(tmp_path, spoken, "llama", *chat) == []
    with pytest.raises(ConfigError, match="ids up to"):
        fit(tmp_path, tokenizer, "llama", vocab_size=64)
    with pytest.raises(ConfigError, match="no pad token, and engine=reference pads"):
        fit(tmp_path, tokenizer, "llama", "engine=reference")
