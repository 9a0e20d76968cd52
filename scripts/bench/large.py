"""Rounds of a language model of LLaMA-7B's shapes, random bf16 weights: time and memory of a step.

    python -m scripts.bench.gpu --out DIR --only llama_7b

Rows as GSM8K's: about 300 tokens, of which the last third is the answer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scripts.bench import workload
from scripts.bench.workload import Profile

LLAMA_7B = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008}
LLAMA_7B |= {"num_hidden_layers": 32, "num_attention_heads": 32}
TINY = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 128}
TINY |= {"num_hidden_layers": 3, "num_attention_heads": 4}
TARGETS = ("self_attn.q_proj", "self_attn.v_proj")
ROUND = Profile(3, 8, 1)  # 24 rows a step: about 7,000 tokens
TOKENS = 300  # of a row, in the mean


@dataclass(frozen=True)
class Rows:
    """Random rows, a third of each its answer, as the engine reads a data set."""

    ids: list[np.ndarray]  # int64 [tokens] of each row
    targets: Any

    @staticmethod
    def of(count: int, tokens: int, words: int) -> Rows:
        """So many rows of a half to one and a half times ``tokens`` tokens."""
        from ffalora_cli.tasks.targets import Targets

        drawn = np.random.default_rng(0)
        lengths = drawn.integers(tokens // 2, tokens + tokens // 2, count)
        ids = [drawn.integers(3, words, length) for length in lengths]
        answers = lengths // 3
        positions = [np.arange(n - a - 1, n - 1) for n, a in zip(lengths, answers, strict=True)]
        values = [row[-a:] for row, a in zip(ids, answers, strict=True)]
        weights = np.repeat(1 / answers, answers).astype(np.float32)  # the mean of a row's tokens
        places = np.concatenate(positions).astype(np.int32)
        offsets = np.r_[0, np.cumsum(answers)]
        return Rows(ids, Targets(np.concatenate(values), offsets, places, weights))

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return np.array([len(row) for row in self.ids], np.int32)

    def packed(self, rows: np.ndarray) -> tuple[torch.Tensor, None]:
        """Tokens of some rows end to end."""
        return torch.from_numpy(np.concatenate([self.ids[row] for row in rows])), None


def make_network(settings: dict[str, int], device: str, recomputes: bool) -> Any:
    """A Llama of these shapes with adapters of rank 8 on queries and values."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from ffalora_cli.config.schema import AdapterConfig
    from ffalora_cli.models.backbone import Backbone
    from ffalora_cli.models.network import build_network
    from ffalora_cli.tasks.causal_lm import TASK

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(LlamaConfig(**settings))
    finally:
        torch.set_default_dtype(before)
    backbone = Backbone(model.eval().requires_grad_(False), "random", (), TASK)
    # The weights are bf16 as they are, so nothing is copied.
    network = build_network(backbone, AdapterConfig(8, 16.0, "", "kaiming", 0, 0.0), TARGETS)
    if recomputes:
        network.recompute()
    return network


def step(settings: dict[str, int], device: str, recomputes: bool, smoke: bool) -> dict[str, Any]:
    """Seconds of a warm private step of FFA-LoRA, its sums of squares, and memory foretold."""
    from ffalora_cli.engine.build import build_engine
    from ffalora_cli.engine.memory import auto_max_tokens, needed

    rows = Rows.of(ROUND.clients * ROUND.batch, 24 if smoke else TOKENS, settings["vocab_size"])
    network = make_network(settings, device, recomputes)
    tokens = 256 if smoke else auto_max_tokens(network)
    engine = build_engine("stacked", network, rows, tokens)
    job = workload.make_job(network, ROUND, "ffa", private=True)
    engine.train(job)
    began = time.perf_counter()
    found = engine.train(job)  # what it returns is on the CPU, so a GPU is done
    return {
        "seconds": time.perf_counter() - began,
        "tokens": found.tokens,
        "max_tokens": engine.max_tokens,
        "foretold_bytes": needed(network, min(engine.max_tokens, found.tokens)),
        "weights_bytes": sum(p.numel() * p.element_size() for p in network.model.parameters()),
        "norms": {name: float(value.double().norm()) for name, value in found.trained.items()},
        "padding": network.padding,
    }
