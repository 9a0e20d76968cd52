"""Recovers tokens from one step's gradient, as a server that is honest but curious.

The server knows A and the embedding tables and sees the gradient of one step on one example. The
gradient of the first layer's A is a sum over tokens of (something) times the token's vector, so its
row space lies in the span of the vectors (LoRA, all of R^d to tell words apart in); the gradient of
B spans only their images under A (FFA-LoRA, R^rank). Every word of the vocabulary is ranked at
every position by its distance to that space, as in DAGER (Petrov et al. 2024, arXiv 2405.15586).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ffalora_cli import keys
from ffalora_cli.audit.mechanism.observe import WatchedOptimizer
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.engine.job import ExamplePrivacy, LocalJob, StepBatches
from ffalora_cli.engine.stacked.engine import StackedEngine
from ffalora_cli.methods.base import Method
from ffalora_cli.tasks.targets import Targets
from ffalora_cli.types import Tensors

if TYPE_CHECKING:
    from ffalora_cli.models.network import Network

B_SD = 0.02  # at the attacked step of what starts at zero: B at zero, the gradient of A is zero
NEGLIGIBLE = 1e-6  # singular values below this share of the largest are rounding


@dataclass(frozen=True)
class Sentences:
    """Token rows of one length, as the engine reads them."""

    tokens: np.ndarray  # int64 [rows, length]
    targets: Targets  # a class a row

    @property
    def lengths(self) -> np.ndarray:
        """The same for every row, int32 [rows]."""
        return np.full(len(self.tokens), self.tokens.shape[1], np.int32)

    def inputs(self, rows: np.ndarray, pad_to: int | None = None) -> Tensors:
        """Nothing is padded: all rows are equally long."""
        ids = torch.from_numpy(self.tokens[rows])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def packed(self, rows: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Token ids end to end; one segment."""
        return torch.from_numpy(self.tokens[rows].reshape(-1)), None


@dataclass(frozen=True)
class Noise:
    """Example-level privacy of the attacked step."""

    multiplier: float
    max_grad_norm: float


def observed(
    network: Network,
    rows: Sentences,
    chosen: np.ndarray,
    values: Tensors,
    trained: Sequence[str],
    noise: Noise | None,
    key: keys.Key,
) -> Tensors:
    """Summed gradient of one step of the run's engine, as it enters the optimiser.

    Args:
        network: with sites.
        rows: to train on.
        chosen: the batch, int64 ``[batch]``.
        values: every factor (and head) at the step, plain shapes.
        trained: names, in layout order.
        noise: clip and noise of the step; None without privacy.
        key: of the noise.
    """
    seen: list[Tensor] = []
    batch = len(chosen)
    privacy = noise and ExamplePrivacy(
        noise.max_grad_norm,
        np.array([noise.multiplier * noise.max_grad_norm]),
        np.array([float(batch)]),
        key,
    )
    job = LocalJob(
        round=1,
        clients=np.zeros(1, np.int64),
        batches=[StepBatches(np.zeros(batch, np.int64), chosen)],
        start={name: values[name][None] for name in trained},
        common={name: value for name, value in values.items() if name not in trained},
        trainable=tuple(trained),
        optimizer=WatchedOptimizer("sgd", 1.0, see=seen.extend),
        privacy=privacy or None,
    )
    StackedEngine(network, rows).train(job)
    parts = (seen[0][0] * batch).split([values[name].numel() for name in trained])
    return {n: p.view_as(values[n]) for n, p in zip(trained, parts, strict=True)}


def first_sites(network: Network) -> list[str]:
    """Adapted layers of the first block that read its input: query, key and value.

    Raises:
        ConfigError: the model's embeddings are not those of BERT or RoBERTa.
    """
    config: Any = network.plain.config
    if config.model_type not in ("bert", "roberta", "xlm-roberta"):
        raise ConfigError(
            f"model: ffalora attack knows BERT and RoBERTa embeddings, not {config.model_type}; "
            "use model=minilm"
        )
    ends = ("self.query", "self.key", "self.value")
    return [s.name for s in network.sites if ".layer.0." in s.name and s.name.endswith(ends)]


def vectors(network: Network, position: int) -> Tensor:
    """What the first block would be given for every word at this position ``[vocabulary, d]``."""
    embeddings: Any = network.plain.get_submodule(f"{network.plain.base_model_prefix}.embeddings")
    offset = embeddings.position_embeddings.padding_idx
    at = position if offset is None else position + offset + 1
    x = embeddings.word_embeddings.weight + embeddings.token_type_embeddings.weight[0]
    return embeddings.LayerNorm(x + embeddings.position_embeddings.weight[at])


def basis(rows: Tensor, most: int) -> Tensor:
    """Orthonormal basis ``[d, k]`` of the row space of ``rows`` ``[m, d]``, k at most ``most``.

    Rows are scaled to length one first: a query's gradient is far smaller than a value's.
    """
    scaled = rows.double() / rows.double().norm(dim=1, keepdim=True).clamp_min(1e-30)
    _, values, right = torch.linalg.svd(scaled, full_matrices=False)
    kept = min(most, int((values > NEGLIGIBLE * values[0]).sum()))
    return right[:kept].t().float()


def distances(words: Tensor, span: Tensor) -> Tensor:
    """Squared distance to the span, as a share of the squared length, ``[vocabulary]``."""
    return 1.0 - (words @ span).square().sum(1) / words.square().sum(1)


@dataclass(frozen=True)
class Attacked:
    """One attacked step: what it was on, and the spaces that its gradient spans."""

    tokens: np.ndarray  # int64 [length]
    spans: tuple[tuple[Tensor | None, Tensor], ...]  # (A of the site, None for R^d; basis)


def check_attackable(method: Method) -> None:
    """Refuse a method whose first upload does not hold A or B of LoRA as they were trained.

    Raises:
        ConfigError: names the method.
    """
    whole = type(method).compress is Method.compress and method.form == "lora"
    if not whole or not {"lora_a", "lora_b"} & {*method.exchange(1).uploaded}:
        raise ConfigError(
            f"--methods {method.name}: it uploads neither A nor B as trained, and ffalora attack "
            "reads nothing else; name another method"
        )


def attack(
    network: Network, rows: Sentences, row: int, method: Method, noise: Noise | None, seed: int
) -> Attacked:
    """One step on one row, and the spaces seen in it; the server is granted the row's length.

    Args:
        network: the rank is that of its adapters.
        rows: of one length.
        row: the one example.
        method: says what is trained in a first round, and what of it the server is sent.
        noise: of the step, or None.
        seed: of B and of the noise.
    """
    length = rows.tokens.shape[1]
    key = keys.derive(seed, "inversion", method.name, row, length)
    values = dict(network.initial)
    for spec in network.specs:
        if spec.kind == "adapter" and not values[spec.name].any():
            values[spec.name] = keys.normal(keys.derive(key, spec.name), spec.shape) * B_SD
    inner, first = network.form.input_factor, method.exchange(1)
    trained = [s.name for s in network.specs if s.factor in first.trained]
    gradient = observed(network, rows, np.array([row]), values, trained, noise, key)
    sites = first_sites(network)
    if inner in first.uploaded:
        stacked = torch.cat([gradient[f"{site}.{inner}"] for site in sites])  # [sites * rank, d]
        return Attacked(rows.tokens[row], ((None, basis(stacked, length)),))
    spans = []
    for site, outer in product(sites, first.uploaded):
        a = values[f"{site}.{inner}"]
        spans.append((a, basis(gradient[f"{site}.{outer}"], min(length, a.shape[0]))))
    return Attacked(rows.tokens[row], tuple(spans))


def recovered(network: Network, steps: Sequence[Attacked], skip: int = 0) -> np.ndarray:
    """Share of positions whose exact token ranks first, of every attacked step ``[steps]``.

    Args:
        network: whose embeddings and vocabulary the server knows.
        steps: of any length, together: the vectors of all words are made once a position.
        skip: positions at the start that are no secret (special tokens).
    """
    hits = np.zeros(len(steps))
    lengths = np.array([len(step.tokens) for step in steps])
    for position in range(skip, int(lengths.max())):
        words = vectors(network, position)
        for number in np.flatnonzero(lengths > position).tolist():
            far = torch.zeros(len(words))
            for a, span in steps[number].spans:
                far += distances(words if a is None else words @ a.t(), span)
            token = int(steps[number].tokens[position])
            hits[number] += int((far <= far[token]).sum()) == 1  # a tie is no recovery
    return hits / (lengths - skip)


def label_counts_exact(
    network: Network, rows: Sentences, batch: int, noise: Noise | None, seed: int
) -> tuple[int, int]:
    """Batches whose label counts a trained head gives away.

    The gradient of the last bias is the sum of (predicted probability - label); the server puts the
    mean prediction for random words in place of the unknown ones.

    Returns:
        Batches with every class count exact, and batches tried.
    """
    classes = network.specs[-1].size if network.specs[-1].factor.endswith("bias") else 0
    name = network.specs[-1].name
    if not classes:
        raise ConfigError("model: its head has no bias; ffalora attack reads label counts from it")
    generator = keys.numpy_generator(keys.derive(seed, "public words"))
    words = generator.integers(10, int(vectors(network, 0).shape[0]), (64, rows.tokens.shape[1]))
    public = Sentences(words, Targets(np.zeros(64, np.int64)))
    with torch.no_grad():
        inputs = network.inputs(public, np.arange(64))
        expected = network.outputs(inputs, network.initial).softmax(1).mean(0)
    tried = len(rows.tokens) // batch
    exact = 0
    for i in range(tried):
        chosen = np.arange(i * batch, (i + 1) * batch)
        key = keys.derive(seed, "labels", i)
        trained = list(network.head_names)
        gradient = observed(network, rows, chosen, network.initial, trained, noise, key)[name]
        guessed = (batch * expected - gradient).round().long().numpy()
        truth = np.bincount(rows.targets.values[chosen], minlength=classes)
        exact += bool((guessed == truth).all())
    return exact, tried
