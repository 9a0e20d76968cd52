"""A tiny language model in a folder, and a task for it, for tests of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ffalora_cli.config.schema import TaskConfig

WORDS = "abcdefghijklmnopqrstuvwxyz0123456789.,:?'"
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[answer]{% endif %}"
)
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


def save_tiny_llama(folder: Path, seed: int = 0) -> Path:
    """A random Llama (grouped heads, tied vocabulary) and its tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    settings = LlamaConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=None,
    )
    LlamaForCausalLM(settings).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
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
