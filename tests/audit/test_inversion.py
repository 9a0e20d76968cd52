"""The inversion attack: linear algebra against numpy, then the reference's figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ffalora_cli.audit.attack import targets
from ffalora_cli.audit.attack.inversion import (
    Noise,
    attack,
    basis,
    check_attackable,
    distances,
    first_sites,
    label_counts_exact,
    observed,
    recovered,
    vectors,
)
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.engine.stacked.engine import StackedEngine
from ffalora_cli.methods import registry
from ffalora_cli.methods.base import Exchange, Method
from tests.tiny import tiny_network

NOISE = Noise(0.9487, 0.5)


@pytest.fixture(scope="module")
def network():
    return targets.random_network(8, 0)


def shares(network, method, length, noise=None, rows=5):
    sentences = targets.random_sentences(rows, length, 0)
    steps = [attack(network, sentences, row, registry.get(method), noise, 0) for row in range(rows)]
    return recovered(network, steps).mean()


def test_distance_to_a_span_against_least_squares() -> None:
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((3, 10)) * np.array([[1.0], [1e-6], [10.0]])
    words = generator.standard_normal((20, 10))
    residual = words.T - rows.T @ np.linalg.lstsq(rows.T, words.T, rcond=None)[0]
    expected = (residual**2).sum(0) / (words**2).sum(1)
    span = basis(torch.from_numpy(rows).float(), 8)
    assert span.shape == (10, 3)
    assert distances(torch.from_numpy(words).float(), span).numpy() == pytest.approx(
        expected, abs=1e-5
    )


def test_candidate_vectors_are_what_the_model_feeds_its_first_block(network) -> None:
    sentences = targets.random_sentences(1, 6, 0)
    embedded = network.plain.roberta.embeddings(torch.from_numpy(sentences.tokens))[0]
    for position, token in enumerate(sentences.tokens[0]):
        assert torch.allclose(vectors(network, position)[token], embedded[position], atol=1e-6)


def test_the_observed_step_is_the_engines_gradient(network) -> None:
    sentences = targets.random_sentences(3, 6, 0)
    trained = [s.name for s in network.specs if s.factor == "lora_b"]
    seen = observed(network, sentences, np.array([2, 0]), network.initial, trained, None, b"unused")
    stacks = {n: network.initial[n][None] for n in trained}
    common = {n: v for n, v in network.initial.items() if n not in trained}
    _, grads = StackedEngine(network, sentences).per_example_gradients(
        np.zeros(2, np.int64), np.array([2, 0]), stacks, {}, common
    )
    for name in trained:
        assert torch.allclose(seen[name], grads[name].sum(0), rtol=1e-4, atol=1e-8)


def test_lora_reveals_what_ffa_lora_does_not_and_privacy_hides_both(network) -> None:
    assert len(first_sites(network)) == 2
    assert shares(network, "lora", 6) == 1.0
    assert shares(network, "lora", 16) >= 0.8  # twice the rank
    assert shares(network, "ffa_lora", 6) >= 0.9
    assert shares(network, "ffa_lora", 12) <= 0.05
    for method in ("lora", "ffa_lora"):
        assert shares(network, method, 12, NOISE, rows=10) <= 0.02


def test_methods_are_asked_what_they_send(network) -> None:
    """FedSA keeps B, sends A, and gives away as much as LoRA; RoLoRA begins with B, as FFA-LoRA."""
    assert shares(network, "fedsa_lora", 12, rows=3) == 1.0
    assert shares(network, "rolora", 12, rows=3) <= 0.05

    class Core(Method):
        name, cycle = "core", ((Exchange(("lora_m",)),),)

    class Packed(Method):
        name = "packed"

        def compress(self, trained, before):
            return []

    for method in (Core(), Packed()):
        with pytest.raises(ConfigError, match=f"--methods {method.name}: it uploads neither A nor"):
            check_attackable(method)


def test_the_head_tells_how_many_of_each_label(network) -> None:
    sentences = targets.random_sentences(200, 8, 0)
    assert label_counts_exact(network, sentences, 20, None, 0) == (10, 10)
    exact, tried = label_counts_exact(network, sentences, 20, NOISE, 0)
    assert tried == 10
    assert exact <= 5


def test_other_embeddings_are_refused() -> None:
    with pytest.raises(ConfigError, match="deberta"):
        first_sites(tiny_network("deberta"))


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "length"), [(8, 16), (16, 32)])
def test_reference_shape_at_twice_the_rank(rank, length) -> None:
    network = targets.random_network(rank, 1)
    assert shares(network, "lora", length, rows=10) >= 0.8
    assert shares(network, "ffa_lora", length * 3 // 4, rows=10) <= 0.05
    for method in ("lora", "ffa_lora"):
        assert shares(network, method, length, NOISE, rows=10) <= 0.02
