import numpy as np
import pytest
import torch

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import ServerOptimizerConfig
from ffalora_cli.federation.server.server import (
    MeanAccumulator,
    apply_update,
    client_weights,
    server_step,
)
from ffalora_cli.types import Merge, ServerState, ServerUpdate


def optimizer(name, lr=1.0, momentum=0.0, beta2=0.99, tau=1e-2):
    return ServerOptimizerConfig(name, lr, momentum, beta2, tau)


def state_of(**tensors):
    return ServerState(tensors, dict.fromkeys(tensors, 0))


def test_weights_by_size_and_uniform():
    sizes = np.array([10, 30, 60])
    assert client_weights(sizes, "size").tolist() == [0.1, 0.3, 0.6]
    assert client_weights(sizes, "uniform").tolist() == [1 / 3] * 3
    assert client_weights(sizes[:0], "size").shape == (0,)


def test_weights_refusals():
    with pytest.raises(ConfigError, match=r"federation\.weights=size.*uniform"):
        client_weights(np.array([0, 0]), "size")
    with pytest.raises(ConfigError, match="did you mean 'uniform'"):
        client_weights(np.array([1]), "unform")


def test_mean_does_not_depend_on_chunks_and_matches_numpy():
    generator = np.random.default_rng(0)
    values = generator.normal(size=(37, 4, 3)).astype(np.float32)
    weights = client_weights(generator.integers(1, 100, 37), "size")
    expected = np.tensordot(weights, values.astype(np.float64), axes=1)
    results = []
    for chunk in (37, 5, 1):
        accumulator = MeanAccumulator()
        for start in range(0, 37, chunk):
            part = {"x": torch.from_numpy(values[start : start + chunk])}
            accumulator.add(part, weights[start : start + chunk])
        results.append(accumulator.result()["x"])
        assert results[-1].dtype == torch.float32
        assert np.abs(results[-1].double().numpy() - expected).max() < 1e-7
    assert (results[0] - results[1]).abs().max() <= 1e-7
    assert MeanAccumulator().result() == {}


def test_chunks_with_other_tensors_are_refused():
    accumulator = MeanAccumulator()
    accumulator.add({"x": torch.ones(1, 2)}, np.ones(1))
    with pytest.raises(ValueError, match="different tensors"):
        accumulator.add({"y": torch.ones(1, 2)}, np.ones(1))


def test_plain_averaging_is_the_mean_bit_for_bit():
    state, mean = state_of(x=torch.tensor([1e8, 3.0])), {"x": torch.tensor([1.1, 2.3])}
    stepped, slots = server_step(optimizer("sgd"), state, mean)
    assert torch.equal(stepped["x"], mean["x"])
    assert slots == {}


def reference(name, rounds, lr, beta1, beta2, tau, start):
    """Algorithm 2 of arXiv 2003.00295 (and FedAvgM), one number at a time."""
    x, m, v = start, 0.0, tau**2
    for mean in rounds:
        d = mean - x
        if name == "sgd":
            m = beta1 * m + d
            x = x + lr * m
            continue
        m = beta1 * m + (1 - beta1) * d
        if name == "adagrad":
            v = v + d * d
        elif name == "adam":
            v = beta2 * v + (1 - beta2) * d * d
        else:
            v = v - (1 - beta2) * d * d * np.sign(v - d * d)
        x = x + lr * m / (v**0.5 + tau)
    return x


@pytest.mark.parametrize("name", ["sgd", "adam", "yogi", "adagrad"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_server_optimizers_follow_the_paper(name, momentum):
    means = [0.5, -0.2, 0.7, 0.7]
    state = state_of(x=torch.tensor([0.1, 2.0], dtype=torch.float64))
    config = optimizer(name, lr=0.3, momentum=momentum)
    for round, mean in enumerate(means, start=1):
        target = {"x": torch.full((2,), mean, dtype=torch.float64)}
        stepped, slots = server_step(config, state, target)
        state = apply_update(state, ServerUpdate(stepped), round, 1.0, slots)
    for got, start in zip(state.tensors["x"].tolist(), (0.1, 2.0), strict=True):
        expected = reference(name, means, 0.3, momentum, 0.99, 1e-2, start)
        assert got == pytest.approx(expected, abs=1e-12)


def test_moments_of_tensors_not_uploaded_are_kept():
    state = state_of(a=torch.zeros(2), b=torch.zeros(2))
    config = optimizer("adam", lr=0.1, momentum=0.9)
    stepped, slots = server_step(config, state, {"b": torch.ones(2)})
    state = apply_update(state, ServerUpdate(stepped), 1, 1.0, slots)
    _, later = server_step(config, state, {"a": torch.ones(2)})
    assert torch.equal(later["momentum/b"], slots["momentum/b"])
    assert torch.equal(later["second/b"], slots["second/b"])
    assert {"momentum/a", "second/a"} <= later.keys()


def merge(site, rank, d_out=8, d_in=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(d_out, rank, generator=generator)
    return Merge(site, left, torch.randn(rank, d_in, generator=generator))


def test_apply_update_sets_versions_rounds_and_the_dense_change():
    state = state_of(a=torch.zeros(2), b=torch.zeros(2))
    first, second = merge("s", 1, seed=1), merge("s", 1, seed=2)
    one = apply_update(state, ServerUpdate({"b": torch.ones(2)}, (first,)), 4, 2.5, {})
    two = apply_update(one, ServerUpdate({"a": torch.ones(2)}, (second,)), 5, 2.5, {})
    assert two.versions == {"a": 5, "b": 4}
    assert [m.exchange for m in two.merges] == [4, 5]
    expected = 2.5 * (first.left @ first.right + second.left @ second.right)
    torch.testing.assert_close(two.base_delta["s"], expected)
    assert two.base_delta["s"].dtype == torch.float32
    assert state.versions == {"a": 0, "b": 0}  # the old state is left alone
    assert len(one.merges) == 1
    torch.testing.assert_close(one.base_delta["s"], 2.5 * first.left @ first.right)


def test_merges_are_pruned_when_the_dense_change_is_cheaper():
    """Rank 1 costs 14 elements, the dense change 48: three merges (42) are worth sending."""
    state = state_of()
    for round in range(1, 10):
        update = ServerUpdate({}, (merge("s", 1, seed=round), merge("t", 2, seed=round)))
        state = apply_update(state, update, round, 1.0, {})
    kept = {site: [m.exchange for m in state.merges if m.site == site] for site in ("s", "t")}
    assert kept == {"s": [6, 7, 8, 9], "t": [8, 9]}  # one more each: it says "dense is cheaper"
    total = sum(merge("s", 1, seed=r).left @ merge("s", 1, seed=r).right for r in range(1, 10))
    torch.testing.assert_close(state.base_delta["s"], total)
