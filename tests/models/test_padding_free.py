"""Rows end to end against padding: every family that takes its attention from transformers."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from ffalora_cli.adapters.context import Context
from ffalora_cli.adapters.layout import Layout
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.models.families import attention, check, packed
from tests.tiny import FAMILIES, tiny_network

SMALL = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "sliding_window": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT = {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "vocab_size": 100,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
ENCODERS = {
    "bert": SMALL,
    "roberta": SMALL | {"pad_token_id": 1, "bos_token_id": 0},
    "xlm-roberta": SMALL | {"pad_token_id": 1, "bos_token_id": 0},
    "distilbert": SMALL | {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "electra": SMALL | {"embedding_size": 16},
    "albert": SMALL | {"embedding_size": 16, "classifier_dropout_prob": 0.0},
    "modernbert": SMALL | {"local_attention": 8, "cls_token_id": 1, "sep_token_id": 2},
}
DECODERS = {
    "llama": SMALL,
    "qwen2": SMALL | {"use_sliding_window": True, "max_window_layers": 1},
    "qwen3": SMALL,
    "mistral": SMALL,
    "gemma": SMALL,
    "gemma2": SMALL | {"query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0},
    "gemma3_text": SMALL | {"query_pre_attn_scalar": 8},
    "phi3": SMALL,
    "phi": SMALL,
    "olmo2": SMALL,
    "granite": SMALL | {"attention_multiplier": 0.3},
    "smollm3": SMALL,
    "cohere": SMALL,
    "gpt_neox": SMALL,
    "gpt2": GPT,
    "opt": SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "starcoder2": SMALL,
    "stablelm": SMALL,
    "qwen3_moe": SMALL | EXPERTS,
    "mixtral": SMALL | EXPERTS,
    "gpt_bigcode": GPT,
}
LENGTHS = np.array([23, 17, 17, 16, 9, 5])


def made(family, settings, auto="AutoModel", **more):
    """A tiny random model with weights large enough that attention is far from even."""
    config = transformers.CONFIG_MAPPING[family](**settings, **more)
    torch.manual_seed(0)
    soft = {"attn_implementation": "eager"} if family == "gemma2" else {}  # sdpa caps no scores
    model = getattr(transformers, auto).from_config(config, **soft)
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval().requires_grad_(False)


def both(model, one_row=False, lengths=LENGTHS):
    """Outputs without padding and with it, of the real tokens."""
    generator = np.random.default_rng(0)
    ids = torch.from_numpy(generator.integers(5, 100, lengths.sum()))
    mask = torch.from_numpy(np.arange(lengths[0]) < lengths[:, None])
    padded = torch.full(mask.shape, model.config.pad_token_id).masked_scatter(mask, ids)
    wanted = model(input_ids=padded, attention_mask=mask.long())[0]
    context = Context()
    attention.install(model, context)
    layout = Layout.of(lengths, class_rows=2)
    if lengths is LENGTHS:
        assert [mask is None for mask in layout.masks()] == [True, False, True, True]
    inputs = packed.Packed.of(ids, None, layout)
    found = packed.outputs(model, context, inputs, one_row)
    assert context.attended and context.layout is None
    return (found, wanted) if one_row else (found[layout.owner >= 0], wanted[mask])


def off(found, wanted):
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("family", [*ENCODERS, *DECODERS])
def test_the_hidden_states_of_every_token(family):
    assert off(*both(made(family, (ENCODERS | DECODERS)[family]))) < 1e-5


@pytest.mark.parametrize("family", ENCODERS)
def test_classifiers_read_one_row_of_each_example(family):
    model = made(family, ENCODERS[family], "AutoModelForSequenceClassification", num_labels=3)
    assert off(*both(model, one_row=True)) < 1e-5


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize(
    "lengths",
    [[5] + 59 * [1], 3 * [1], 3 * [62], [1]],  # the first: as many head rows as rows, in disorder
    ids=["59 of one token", "one token", "every position", "one row"],
)
def test_rows_of_one_token_and_of_every_position(family, lengths):
    model = made(family, ENCODERS[family], "AutoModelForSequenceClassification", num_labels=3)
    assert off(*both(model, one_row=True, lengths=np.array(lengths))) < 1e-5


def test_a_head_that_reads_the_mean_of_an_example():
    settings = ENCODERS["modernbert"] | {"classifier_pooling": "mean", "num_labels": 3}
    model = made("modernbert", settings, "AutoModelForSequenceClassification")
    assert off(*both(model, one_row=True)) < 1e-5


def test_the_last_layer_computes_the_head_s_rows_alone():
    """BERT's feed-forward of the last layer sees one row an example; the one before, all tokens."""
    model = made("bert", ENCODERS["bert"], "AutoModelForSequenceClassification", num_labels=3)
    rows = []
    for layer in model.bert.encoder.layer:
        layer.intermediate.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[1]))
    both(model, one_row=True)
    padded, before, last = rows[0], *rows[2:]
    assert (padded, last) == (LENGTHS[0], 16) and before >= LENGTHS.sum()


@pytest.mark.parametrize("family", ["deberta-v2", "mpnet", "bloom"])
def test_who_never_calls_the_interface_is_refused(family):
    settings = (GPT if family == "bloom" else SMALL) | {"pad_token_id": 1}
    assert "is not transformers' AttentionInterface" in check.refusal(
        made(family, settings), "target"
    )


CLASSIFIERS = [f for f in DECODERS if f not in ("granite", "cohere")]  # these have no such head


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_classifiers_of_causal_models_read_the_last_row_of_each_example(family):
    model = made(family, DECODERS[family], "AutoModelForSequenceClassification", num_labels=3)
    assert not check.refusal(copy.deepcopy(model), "example")
    assert off(*both(model, one_row=True)) < 1e-5


def test_a_causal_model_that_tags_tokens():
    model = made("llama", DECODERS["llama"], "AutoModelForTokenClassification", num_labels=3)
    assert not check.refusal(model, "target")


def test_attention_in_chunks_is_refused():
    settings = SMALL | {"attention_chunk_size": 300, "intermediate_size_mlp": 48}
    model = made("llama4_text", settings)
    assert off(*both(model)) < 1e-5  # of rows that are shorter than a chunk
    assert "in chunks" in check.refusal(model, "target")


@pytest.mark.parametrize("family", ["canine", "ibert"])
def test_a_family_without_an_ordinary_table_of_words_is_padded(family):
    settings = SMALL | {"num_hash_functions": 4, "num_hash_buckets": 64, "local_attention": 8}
    model = made(family, settings, "AutoModelForSequenceClassification", num_labels=3)
    assert check.refusal(model, "example")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_tries_it_when_it_is_built(family):
    network = tiny_network(family)
    assert bool(network.padding) == (family == "deberta") and network.packs != bool(network.padding)


@pytest.mark.parametrize("fault", ["wrong", "fails"])
def test_a_forward_pass_that_is_not_the_model_s_own_is_not_taken(fault, monkeypatch):
    own = attention._attention

    def broken(q, k, v, mask, scaling, *rest):
        if fault == "fails":
            raise ValueError("shapes do not fit")
        return own(q, k, v, mask, 1.0, *rest)

    monkeypatch.setattr(attention, "_attention", broken)
    network = tiny_network("distilbert")
    reason = {"wrong": "its outputs without padding are off by", "fails": "shapes do not fit"}
    assert reason[fault] in network.padding and not network.packs


@pytest.mark.parametrize("family", ["convbert", "nystromformer", "rembert", "bloom"])
def test_a_row_that_shows_beside_whom_it_is_padded_has_no_privacy(family):
    settings = SMALL | {"embedding_size": 16, "input_embedding_size": 16, "num_landmarks": 4}
    settings = GPT if family == "bloom" else settings | {"output_embedding_size": 16}
    model = made(family, settings, "AutoModelForSequenceClassification", num_labels=3)
    network = SimpleNamespace(plain=model, padding="it does")
    if family in ("convbert", "nystromformer"):
        with pytest.raises(
            ConfigError, match=f"{family} model says of a text (changes by|may change)"
        ):
            check.check_rows_apart(network)
    else:
        check.check_rows_apart(network)
