"""Writes and orders methods, settings and their values: one way for tables and pictures.

A table says ``FFA-LoRA`` and ``Dirichlet α = 0.3`` where records say ``method.name: ffa_lora`` and
``partition.dirichlet_alpha: 0.3``. What has no name of its own here is written as it is typed. CSV
and JSON keep keys and typed values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

METHODS = {
    "lora": "LoRA",
    "ffa_lora": "FFA-LoRA",
    "rolora": "RoLoRA",
    "fedsa_lora": "FedSA-LoRA",
    "fedex_lora": "FedEx-LoRA",
    "fedsvd": "FedSVD",
}
"""As their papers write them, in the order of rows and lines: the baseline first."""

_TASKS = {
    "ag_news": "AG News", "banking77": "Banking77", "bbc_news": "BBC News", "cifar10": "CIFAR-10",
    "clinc150": "CLINC150", "cola": "CoLA", "conll2003": "CoNLL-2003", "dolly15k": "Dolly-15k",
    "food101": "Food-101", "gsm8k": "GSM8K", "mnli": "MNLI", "mrpc": "MRPC", "qnli": "QNLI",
    "qqp": "QQP", "rte": "RTE", "sst2": "SST-2", "stsb": "STS-B", "trec": "TREC",
}  # fmt: skip
_MODELS = {
    "albert_base": "ALBERT-base", "bert_base": "BERT-base", "deberta_v3_base": "DeBERTa-v3-base",
    "distilbert": "DistilBERT", "gpt2": "GPT-2", "llama2_7b": "Llama-2-7B",
    "llama32_1b": "Llama-3.2-1B", "llama3_8b": "Llama-3-8B", "minilm": "MiniLM",
    "mistral_7b": "Mistral-7B", "modernbert_base": "ModernBERT-base", "opt_125m": "OPT-125M",
    "roberta_base": "RoBERTa-base", "roberta_large": "RoBERTa-large", "vit_base": "ViT-B/16",
}  # fmt: skip
_VALUES = {
    "method": METHODS,
    "task": _TASKS,
    "model": _MODELS,
    "partition": {"iid": "IID", "dirichlet": "Dirichlet"},
    "privacy": {"none": "no privacy"},
    "privacy.unit": {"none": "no privacy"},
    "privacy.epsilon_target": {"null": "no privacy"},
    "privacy.accountant": {"pld": "PLD", "rdp": "RDP", "prv": "PRV"},
}
_KEYS = {
    "partition.dirichlet_alpha": "Dirichlet α",
    "partition.seed": "partition seed",
    "partition.label_mix": "label mix",
    "privacy.epsilon_target": "ε",
    "privacy.delta": "δ",
    "privacy.max_grad_norm": "clip",
    "privacy.unit": "privacy unit",
    "adapter.alpha": "LoRA α",
    "adapter.seed": "adapter seed",
    "head.mode": "head",
    "head.seed": "head seed",
    "head.scale": "head scale",
    "federation.num_clients": "clients",
    "federation.local_lr": "learning rate",
    "federation.local_batch_size": "batch size",
    "federation.local_optimizer": "optimizer",
    "federation.server_optimizer.lr": "server learning rate",
    "federation.server_optimizer.name": "server optimizer",
    "federation.server_optimizer.momentum": "server momentum",
    "adapter.dropout": "LoRA dropout",
    "adapter.init": "start of A",
    "model.dropout": "model dropout",
}


@dataclass(frozen=True)
class Names:
    """How keys and values are written, and in which order values stand.

    Attributes:
        raw: as they are typed, ``privacy.epsilon_target`` and ``null``.
        own: names of a person's own by value, as in ``{"my_method": "Ours"}``.
        typed: values by key in the order in which a person typed them; they come first.
    """

    raw: bool = False
    own: Mapping[str, str] = field(default_factory=dict)
    typed: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def key(self, key: str) -> str:
        """A key as the title of a column: ``Dirichlet α``; a group's is its own (``method``)."""
        if self.raw:
            return key
        return _KEYS.get(key) or key.rsplit(".", 1)[-1].replace("_", " ")

    def value(self, key: str, value: str) -> str:
        """A value as a cell: ``FFA-LoRA``, ``none`` for ``null``.

        Args:
            key: its column, ``method`` and not ``method.name``.
            value: as it is typed in an override (``selection.spelled``).
        """
        if value in self.own:
            return self.own[value]
        if self.raw:
            return value
        return _VALUES.get(key, {}).get(value) or ("none" if value == "null" else value)

    def said(self, key: str, value: str) -> str:
        """A value beside others: names stand for themselves, the rest as ``Dirichlet α = 0.3``."""
        shown = self.value(key, value)
        named = "." not in key and key != "seed"
        if named or shown == "no privacy" or value in self.own:
            return shown
        return f"{self.key(key)} = {shown}"

    def label(self, keys: Sequence[str], values: Sequence[str]) -> str:
        """All values of a row or line: ``FFA-LoRA, Dirichlet α = 0.3, ε = 6``."""
        return ", ".join(map(self.said, keys, values))

    def place(self, key: str, value: str) -> tuple[int, float, str]:
        """What values of a key are sorted by.

        Typed lists in their order, methods in the order of ``METHODS``, numbers by size, then words
        by letter, and what is not there (``null``: no privacy, for an epsilon) at the end.
        """
        known = [*self.typed.get(key, ()), *(METHODS if key == "method" else ())]
        if value in known:
            return 0, known.index(value), ""
        try:
            return 1, float(value), ""
        except ValueError:
            return (3 if value in ("null", "-") else 2), 0.0, value

    def ordered(
        self, keys: Sequence[str], rows: Iterable[tuple[str, ...]]
    ) -> list[tuple[str, ...]]:
        """Rows of values by their first key, then by the next.

        Args:
            keys: of each row's values.
            rows: values as typed, as long as the keys.
        """
        return sorted(rows, key=lambda row: list(map(self.place, keys, row)))


PAPER, RAW = Names(), Names(raw=True)


def byte_unit(largest: float) -> tuple[float, str]:
    """(bytes in a unit, its name) so that the largest value has one to three digits."""
    for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if largest >= size:
            return size, name
    return 1.0, "B"
