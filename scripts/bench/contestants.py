"""The ways to train one round that the benchmark times, and their names.

A name is an engine and its options: ``stacked``, ``reference+128``, ``stacked+plain+bf16``.
``+plain`` trains without privacy, ``+128`` pads to 128 instead of the longest of each batch,
``+bf16`` keeps the frozen weights in bfloat16.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from ffalora_cli.data.encode import Encoded
from ffalora_cli.engine.build import build_engine
from ffalora_cli.engine.job import LocalJob
from ffalora_cli.engine.microbatch import cut, padded_tokens
from ffalora_cli.models.network import Network
from ffalora_cli.tasks.targets import Targets
from ffalora_cli.types import Stack

# What each engine needs beyond torch and transformers, and whether it trains with privacy (None:
# as asked).
ENGINES: dict[str, tuple[tuple[str, ...], bool | None]] = {
    "stacked": ((), None),
    "shared": ((), False),
    "reference": (("opacus",), None),
    "peft_loop": (("peft",), False),
    "peft_opacus": (("peft", "opacus"), True),
}
PEERS = ("reference", "peft_loop", "peft_opacus")
WIDTH = 128
Train = Callable[[LocalJob], tuple[Stack, int]]
"""One round: trained tensors ``[clients, ...]`` and the tokens computed, padding included."""


class UnknownContestant(ValueError):
    """A name that stands for nothing, or for something that is not installed; one line."""


@dataclass(frozen=True)
class Contestant:
    """A parsed name."""

    engine: str
    private: bool
    precision: str
    padded: bool

    @property
    def name(self) -> str:
        """The name in its canonical order."""
        plain = "+plain" if not self.private and ENGINES[self.engine][1] is None else ""
        bf16 = "+bf16" if self.precision == "bf16" else ""
        return self.engine + plain + ("+128" if self.padded else "") + bf16

    @property
    def missing(self) -> list[str]:
        """Packages it needs that are not installed."""
        return [p for p in ENGINES[self.engine][0] if importlib.util.find_spec(p) is None]


def parse(name: str, precision: str = "fp32", private: bool = True) -> Contestant:
    """A contestant by its name.

    Raises:
        UnknownContestant: no such engine or option, or a package it needs is missing.
    """
    engine, *options = name.split("+")
    if engine not in ENGINES:
        raise UnknownContestant(f"no contestant {engine!r}; there are {', '.join(ENGINES)}")
    for option in options:
        if option not in ("plain", "128", "bf16"):
            raise UnknownContestant(f"{name}: no option {option!r}; there are plain, 128, bf16")
    fixed = ENGINES[engine][1]
    wants_private = private and "plain" not in options
    if fixed is True and not wants_private:
        raise UnknownContestant(f"{engine} always trains with privacy; leave it out")
    if "128" in options and engine not in PEERS:
        raise UnknownContestant(f"{engine} does not pad; 128 is for {', '.join(PEERS)}")
    found = Contestant(
        engine,
        wants_private if fixed is None else fixed,
        "bf16" if "bf16" in options else precision,
        "128" in options,
    )
    if found.missing:
        raise UnknownContestant(f"{name} needs {' and '.join(found.missing)}; pip install it")
    return found


def standard(precision: str, private: bool, padded: bool, shared: bool) -> list[Contestant]:
    """All that are installed; ``padded`` adds the peers padded to 128, ``shared`` the cheapest."""
    names = ["stacked", *(["stacked+plain"] if private else []), *(["shared"] if shared else [])]
    for peer in PEERS:
        if ENGINES[peer][1] is not True or private:
            names += [peer, f"{peer}+128"] if padded else [peer]
    chosen = []
    for name in names:
        try:
            chosen.append(parse(name, precision, private))
        except UnknownContestant:
            continue  # not installed: the table says which rows there are
    return chosen


def build(contestant: Contestant, network: Network, examples: Encoded, max_tokens: int) -> Train:
    """The function that trains a round.

    Args:
        contestant: which.
        network: in the contestant's precision.
        examples: the texts.
        max_tokens: of a micro-batch (stacked and shared).
    """
    source = _Wide(examples) if contestant.padded else examples
    if contestant.engine == "shared":
        return _Shared(network, examples, max_tokens).train
    if contestant.engine in ("stacked", "reference"):
        engine = build_engine(contestant.engine, network, source, max_tokens)

        def train(job: LocalJob) -> tuple[Stack, int]:
            result = engine.train(job)
            padded = _rectangle(job, examples) if contestant.padded else result.padded_tokens
            return result.trained, padded

        return train
    from scripts.bench.peers import PeftLoop, PeftOpacus

    peer = PeftLoop if contestant.engine == "peft_loop" else PeftOpacus
    trained = peer(network, source, contestant.precision)
    return lambda job: (
        trained.train(job),
        _rectangle(job, examples) if contestant.padded else longest_tokens(job, examples),
    )


def _rectangle(job: LocalJob, examples: Encoded) -> int:
    return WIDTH * sum(len(step.rows) for step in job.batches)


def longest_tokens(job: LocalJob, examples: Encoded) -> int:
    """Tokens when every client's batch is padded to its longest."""
    return sum(
        padded_tokens(examples.lengths[step.rows[step.slots == slot]], None)
        for step in job.batches
        for slot in np.unique(step.slots)
    )


@dataclass(frozen=True)
class _Wide:
    """Examples that come padded to ``WIDTH`` whatever width is asked for."""

    examples: Encoded
    lengths: np.ndarray = field(init=False)
    targets: Targets = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", self.examples.lengths)
        object.__setattr__(self, "targets", self.examples.targets)

    def inputs(self, rows: np.ndarray, pad_to: int | None = None) -> dict[str, Tensor]:
        """Model inputs ``[rows, WIDTH]``."""
        return self.examples.inputs(rows, WIDTH)


@dataclass
class _Shared:
    """The cheapest non-private pass: the shared stack itself is differentiated.

    The gather is inside the graph, so a micro-batch gives ``[clients, ...]`` gradients of its
    clients' summed losses at once; there is nothing per example to clip.
    """

    network: Network
    examples: Encoded
    max_tokens: int

    def train(self, job: LocalJob) -> tuple[Stack, int]:
        """One round of plain SGD."""
        device = self.network.device
        stack = {
            n: nn.Parameter(job.start[n].to(device, copy=True).contiguous()) for n in job.trainable
        }
        common = {n: v.to(device) for n, v in job.common.items()}
        optimizer = job.optimizer.build(list(stack.values()))
        packed = self.network.packs
        padded = 0
        for pairs in job.batches:
            lengths = self.examples.lengths[pairs.rows]
            sizes = np.bincount(pairs.slots, minlength=len(job.clients))
            weights = torch.from_numpy(1.0 / np.maximum(sizes, 1)).float().to(device)
            optimizer.zero_grad()
            for batch in cut(lengths, self.max_tokens, len(lengths), packed):
                index = torch.from_numpy(pairs.slots[batch]).to(device)
                rows = pairs.rows[batch]
                gathered = {n: v.index_select(0, index) for n, v in stack.items()}
                inputs = self.network.inputs(self.examples, rows)
                targets = self.examples.targets.batch(rows).to(device)
                losses = self.network.losses(inputs, common | gathered, targets)
                (losses * weights[index]).sum().backward()
                padded += padded_tokens(lengths[batch], self.network.class_rows if packed else None)
            optimizer.step()
        return {n: v.detach() for n, v in stack.items()}, padded


def update_of(job: LocalJob, trained: Stack) -> Tensor:
    """What training changed, all tensors end to end, on the CPU in fp64."""
    parts = [(trained[n].cpu().double() - job.start[n].double()).flatten() for n in job.trainable]
    return torch.cat(parts)


def as_plain(job: LocalJob) -> LocalJob:
    """The same round without privacy."""
    return replace(job, privacy=None)
