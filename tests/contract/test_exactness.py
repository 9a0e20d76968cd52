"""What the six methods claim, each by its own formula, against plain numpy in float64."""

import numpy as np
import pytest
import torch

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.federation.server.server import MeanAccumulator
from ffalora_cli.methods import registry
from ffalora_cli.methods.base import AggregateContext
from ffalora_cli.types import ServerState, Site

SITE = Site("block.query", 12, 10)
RANK, CLIENTS = 3, 4
WEIGHTS = np.array([0.4, 0.3, 0.25, 0.05])
A, B = f"{SITE.name}.lora_a", f"{SITE.name}.lora_b"


def draw(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def aggregate(name, tensors, uploads, weights=WEIGHTS):
    state = ServerState(tensors, dict.fromkeys(tensors, 0))
    accumulator = MeanAccumulator()
    accumulator.add(uploads, weights)
    context = AggregateContext(1, (SITE,), 8 / 3, {})
    method = registry.get(name)
    return method.aggregate(state, accumulator.result(), uploads, torch.as_tensor(weights), context)


def both_factors(clients=CLIENTS):
    return {A: draw(1, clients, RANK, SITE.d_in), B: draw(2, clients, SITE.d_out, RANK)}


def mean_of_products(uploads, weights):
    return np.einsum("k,kor,kri->oi", weights, uploads[B].numpy(), uploads[A].numpy())


def test_ffa_mean_of_products_is_product_of_means():
    a, b = draw(1, RANK, SITE.d_in), draw(2, CLIENTS, SITE.d_out, RANK)
    update = aggregate("ffa_lora", {A: a, B: torch.zeros(SITE.d_out, RANK)}, {B: b})
    products = np.einsum("k,kor,ri->oi", WEIGHTS, b.numpy(), a.numpy())
    assert np.abs((update.tensors[B] @ a).numpy() - products).max() < 1e-12
    assert set(update.tensors) == {B}


def test_lora_is_the_mean_of_each_factor_and_misses_the_mean_of_products():
    uploads = both_factors()
    update = aggregate("lora", {A: uploads[A][0], B: uploads[B][0]}, uploads)
    for name in (A, B):
        expected = np.tensordot(WEIGHTS, uploads[name].numpy(), axes=1)
        assert np.abs(update.tensors[name].numpy() - expected).max() < 1e-12
    product = (update.tensors[B] @ update.tensors[A]).numpy()
    assert np.abs(product - mean_of_products(uploads, WEIGHTS)).max() > 0.1


def test_fedex_residual_is_exact_and_of_rank_k_minus_one_times_r():
    uploads = both_factors()
    update = aggregate("fedex_lora", {A: uploads[A][0], B: uploads[B][0]}, uploads)
    (merge,) = update.merges
    assert merge.left.shape == (SITE.d_out, (CLIENTS - 1) * RANK)
    assert merge.right.shape == ((CLIENTS - 1) * RANK, SITE.d_in)
    product = update.tensors[B] @ update.tensors[A] + merge.left @ merge.right
    assert np.abs(product.numpy() - mean_of_products(uploads, WEIGHTS)).max() < 1e-12


def test_fedex_does_not_weigh_twice():
    uploads, weights = both_factors(2), np.array([0.9, 0.1])
    (merge,) = aggregate("fedex_lora", {}, uploads, weights).merges
    a, b = uploads[A].numpy(), uploads[B].numpy()
    covariance = 0.9 * 0.1 * (b[0] - b[1]) @ (a[0] - a[1])  # of two points, by hand
    assert np.abs((merge.left @ merge.right).numpy() - covariance).max() < 1e-12


def test_fedex_with_one_client_merges_nothing():
    update = aggregate("fedex_lora", {}, both_factors(1), np.ones(1))
    assert update.merges == ()


def test_fedex_refuses_a_mean_without_uploads():
    uploads = both_factors()
    context = AggregateContext(1, (SITE,), 1.0, {})
    with pytest.raises(ValueError, match="every client's upload"):
        registry.get("fedex_lora").aggregate(
            ServerState({}, {}), uploads, None, torch.ones(2) / 2, context
        )


@pytest.mark.parametrize("deficient", [False, True], ids=["full_rank", "rank_1"])
def test_fedsvd_is_the_svd_of_the_product(deficient):
    a, b = draw(1, RANK, SITE.d_in), draw(2, 1, SITE.d_out, RANK)
    if deficient:
        b = draw(3, 1, SITE.d_out, 1) @ draw(4, 1, 1, RANK)
    new = aggregate("fedsvd", {A: a, B: b[0] * 0}, {B: b}, np.ones(1)).tensors
    product = (b[0] @ a).numpy()
    assert np.abs((new[B] @ new[A]).numpy() - product).max() < 1e-12
    gram = (new[A] @ new[A].T).numpy()
    assert np.abs(gram - np.eye(RANK)).max() < 1e-12
    lengths = new[B].norm(dim=0).numpy()  # B = U S: its columns are as long as singular values
    assert np.abs(lengths - np.linalg.svd(product, compute_uv=False)[:RANK]).max() < 1e-12
    largest = new[A][torch.arange(RANK), new[A].abs().argmax(dim=1)]
    assert (largest > 0).all()


def test_fedsvd_of_an_untrained_b_only_orthogonalises_a():
    a = draw(1, RANK, SITE.d_in)
    zero = torch.zeros(CLIENTS, SITE.d_out, RANK, dtype=torch.float64)
    new = aggregate("fedsvd", {A: a, B: zero[0]}, {B: zero}).tensors
    assert torch.equal(new[B], zero[0])
    assert np.abs((new[A] @ new[A].T).numpy() - np.eye(RANK)).max() < 1e-12
    within = a @ new[A].T @ new[A]  # the rows span the same space
    assert np.abs((within - a).numpy()).max() < 1e-12


def test_fedsvd_twice_changes_nothing():
    a, b = draw(1, RANK, SITE.d_in), draw(2, 1, SITE.d_out, RANK)
    once = aggregate("fedsvd", {A: a, B: b[0]}, {B: b}, np.ones(1)).tensors
    twice = aggregate("fedsvd", once, {B: once[B][None]}, np.ones(1)).tensors
    for name in (A, B):
        assert (once[name] - twice[name]).abs().max() < 1e-12


def test_fedsvd_refuses_a_rank_beyond_the_layer():
    a, b = draw(1, 11, SITE.d_in), draw(2, 1, SITE.d_out, 11)
    with pytest.raises(ConfigError, match=r"adapter\.rank=11.*at most 10"):
        aggregate("fedsvd", {A: a, B: b[0]}, {B: b}, np.ones(1))


def test_rolora_takes_turns():
    method = registry.get("rolora")
    assert [method.exchange(number).trained for number in (1, 2, 3)] == [
        ("lora_b",),
        ("lora_a",),
        ("lora_b",),
    ]


def test_fedsa_shares_a_only():
    method = registry.get("fedsa_lora")
    assert method.exchange(1).trained == ("lora_a", "lora_b")
    assert method.exchange(1).uploaded == ("lora_a",)
    assert method.personal_head
