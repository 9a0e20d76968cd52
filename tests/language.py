"""A tiny language model in a folder, and a task for it, for tests of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ffalora_cli.config.schema import AdapterConfig, TaskConfig
from ffalora_cli.models.backbone import Backbone
from ffalora_cli.models.network import Network, build_network
from ffalora_cli.tasks.causal_lm import TASK
from ffalora_cli.tasks.targets import Targets
from tests.models.test_padding_free import DECODERS, made
from tests.tiny import TinyExamples

WORDS = "abcdefghijklmnopqrstuvwxyz0123456789.,:?'"
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[answer]{% endif %}"
)
SITES = {
    "gpt2": ("attn.c_attn", "attn.c_proj", "mlp.c_fc"),
    "gpt_neox": ("query_key_value", "dense_4h_to_h"),
    "opt": ("q_proj", "v_proj"),
    "phi3": ("qkv_proj", "gate_up_proj"),
}
FAMILIES = (
    "llama", "qwen2", "qwen3", "mistral", "gemma2", "phi3", "opt", "gpt2", "gpt_neox",
)  # fmt: skip
LLAMA_TARGETS = ("self_attn.q_proj", "self_attn.v_proj")


def tokenizer(**changed: Any) -> Any:
    """One token a character; a text begins with <s>, and </s> ends an answer."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<s>", "</s>", "<unk>", " ", "\n", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | changed
    made = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **names)
    made.chat_template = TEMPLATE
    return made


def save_tiny_llama(folder: Path, seed: int = 0, words: Any = None, **changed: Any) -> Path:
    """A random Llama (grouped heads, tied vocabulary) and its tokenizer, ``words`` or ours."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    words = words or tokenizer()
    settings: dict[str, Any] = {
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": None,
    }
    LlamaForCausalLM(LlamaConfig(**settings | changed)).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def task_of(**changed: Any) -> TaskConfig:
    """Questions and answers, by category."""
    settings: dict[str, Any] = {
        "name": "talk",
        "version": 1,
        "text_columns": (),
        "label_column": "category",
        "classes": ("open", "closed"),
        "metrics": ("nll", "perplexity", "token_accuracy"),
        "splits": {"train": "train"},
        "eval_split": "holdout",
        "tune_split": "holdout",
        "kind": "causal_lm",
        "prompt": "q: {question}\n{context}\na:",
        "completion": " {answer}",
        "max_length": 40,
        "holdout_fraction": 0.25,
    }
    return TaskConfig(**settings | changed)


def write_rows(folder: Path, rows: int = 48) -> Path:
    """``folder/talk/train.jsonl``: answers that repeat the question, some with a context."""
    import json

    file = folder / "talk" / "train.jsonl"
    file.parent.mkdir(parents=True)
    lines = []
    for i in range(rows):
        question = WORDS[i % 26] * (1 + i % 5)
        context = None if i % 3 else "see " + WORDS[i % 7]
        row = {"question": question, "context": context, "answer": f"{question}.{i}"}
        lines.append(json.dumps(row | {"category": ["open", "closed"][i % 2]}))
    file.write_text("\n".join(lines))
    return folder


def language_network(family: str, rank: int = 4, alpha: float = 8.0, **settings: Any) -> Network:
    """A tiny random model of a family, with adapters in attention and, mostly, after it."""
    model = made(family, DECODERS[family] | settings, "AutoModelForCausalLM")
    adapter = AdapterConfig(rank, alpha, "query_value", "kaiming", 0, 0.0)
    sites = SITES.get(family, ("q_proj", "v_proj", "down_proj"))
    return build_network(Backbone(model, "tiny", (), TASK), adapter, sites)


def answered(rows: int, reduction: str = "mean") -> TinyExamples:
    """Rows whose last tokens, from one to all but the first, are the answer."""
    examples = TinyExamples(rows)
    counts = np.random.default_rng(3).integers(1, examples.lengths)
    starts = examples.lengths - counts
    weights = 1.0 / counts if reduction == "mean" else np.ones(rows)
    examples.targets = Targets(
        np.concatenate([t[-n:] for t, n in zip(examples.tokens, counts, strict=True)]),
        np.r_[0, np.cumsum(counts)],
        np.concatenate([np.arange(s - 1, s - 1 + n) for s, n in zip(starts, counts, strict=True)]),
        np.repeat(weights, counts).astype(np.float32),
    )
    return examples
