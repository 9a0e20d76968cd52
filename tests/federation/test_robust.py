"""Combination rules against plain float64 loops, and what an attack may do under each."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.federation.server import robust
from tests.arrivals import CLIENTS, federate, keeping

SHAPES = {"a": (2, 3), "b": (5,), "c": (1,)}


def updates(clients, seed=0, size=40):
    return np.random.default_rng(seed).normal(size=(clients, size))


def looped_median(x):
    return np.array([sorted(column)[len(column) // 2] for column in x.T])


def looped_trimmed(x, bad):
    return np.array([np.mean(sorted(column)[bad : len(column) - bad]) for column in x.T])


def looped_krum_scores(x, bad):
    clients = len(x)
    scores = []
    for i in range(clients):
        distances = sorted(sum((x[i] - x[j]) ** 2) for j in range(clients) if j != i)
        scores.append(sum(distances[: clients - bad - 2]))
    return np.array(scores)


def close(found, expected, tolerance=1e-12):
    return np.abs(found.numpy() - expected).max() < tolerance


@pytest.mark.parametrize("clients", [1, 2, 3, 4, 7, 20])
def test_median_is_numpys(clients):
    x = updates(clients)
    assert close(robust.median(torch.from_numpy(x)), np.median(x, axis=0))
    if clients % 2:
        assert close(robust.median(torch.from_numpy(x)), looped_median(x))


@pytest.mark.parametrize(("clients", "bad"), [(3, 0), (3, 1), (5, 2), (10, 3), (20, 1)])
def test_trimmed_mean(clients, bad):
    x = updates(clients)
    assert close(robust.trimmed_mean(torch.from_numpy(x), bad), looped_trimmed(x, bad))


@pytest.mark.parametrize(("clients", "bad"), [(3, 0), (5, 1), (7, 2), (12, 4)])
def test_krum_and_multi_krum(clients, bad):
    x = updates(clients)
    scores = looped_krum_scores(x, bad)
    given = torch.from_numpy(x)
    assert close(robust.krum_scores(given, bad), scores)
    assert close(robust.krum(given, bad), x[scores.argmin()])
    kept = np.sort(np.argsort(scores)[: clients - bad])
    assert close(robust.multi_krum(given, bad), x[kept].mean(0))


def test_norm_bound_shortens_to_the_median_and_weighs():
    x, weights = (
        updates(5) * np.array([1, 2, 3, 400, 5])[:, None],
        np.array([0.1, 0.2, 0.3, 0.3, 0.1]),
    )
    lengths = np.linalg.norm(x, axis=1)
    expected = sum(
        w * row * min(1, sorted(lengths)[2] / length)
        for w, row, length in zip(weights, x, lengths, strict=True)
    )
    found = robust.norm_bound(torch.from_numpy(x), torch.from_numpy(weights))
    assert close(found, expected)
    assert close(robust.norm_bound(torch.zeros(3, 4).double(), torch.ones(3).double() / 3), 0.0)


@pytest.mark.parametrize("rule", robust.RULES)
@pytest.mark.parametrize("clients", [1, 2, 3, 6])
def test_every_rule_takes_few_clients_and_keeps_names_shapes_and_a_common_update(rule, clients):
    before = {n: torch.randn(s) for n, s in SHAPES.items()}
    step = {n: torch.randn(s) for n, s in SHAPES.items()}
    uploads = {n: (before[n] + step[n]).expand(clients, *s) for n, s in SHAPES.items()}
    weights = torch.full((clients,), 1 / clients, dtype=torch.float64)
    found = robust.combine(rule, uploads, before, weights, assumed_bad=1)
    assert {n: tuple(v.shape) for n, v in found.items()} == SHAPES
    for name, value in found.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, before[name] + step[name])


@pytest.mark.parametrize("rule", robust.RULES)
def test_the_order_of_clients_does_not_matter(rule):
    x, weights = torch.from_numpy(updates(5, size=6)), torch.tensor([0.1, 0.3, 0.2, 0.15, 0.25])
    first = robust.RULES[rule](x, weights.double(), 1)
    for order in itertools.permutations(range(5)):
        again = robust.RULES[rule](x[list(order)], weights.double()[list(order)], 1)
        torch.testing.assert_close(again, first)


@pytest.mark.parametrize("rule", robust.RULES)
def test_two_of_nine_liars_move_the_result_no_further_than_the_honest_are_apart(rule):
    """They may send anything finite: the result stays near the honest mean; the mean does not."""
    honest = torch.from_numpy(updates(7, size=200)) + 3.0
    weights = torch.full((9,), 1 / 9, dtype=torch.float64)
    spread = float((honest - honest.mean(0)).norm(dim=1).max())
    for lie in (1e3, -1e3, 1e12, -1e18):
        x = torch.cat([honest, torch.full((2, 200), lie, dtype=torch.float64)])
        moved = float((robust.RULES[rule](x, weights, 2) - honest.mean(0)).norm())
        limit = spread if rule != "norm_bound" else 4 / 9 * float(honest.norm(dim=1).max()) + spread
        assert moved <= limit
        assert float((x.mean(0) - honest.mean(0)).norm()) > 10 * limit


@pytest.mark.parametrize("rule", robust.RULES)
def test_the_simulation_combines_by_the_rule(rule, monkeypatch):
    """Uploads of a real round; whatever the chunks, the server holds what the rule says."""
    sim = federate(combination=rule, assumed_bad=2)
    log = []
    before = {n: v.double().numpy() for n, v in sim.tensors.items()}
    sim.play(1, keeping(sim, log))
    seen = {name: values.double().numpy() for name, values in log[0][1].trained.items()}
    x = np.concatenate([(v - before[n]).reshape(CLIENTS, -1) for n, v in seen.items()], axis=1)
    scores = looped_krum_scores(x, 2)
    sizes = sim.clients.sizes / sim.clients.sizes.sum()
    lengths = np.linalg.norm(x, axis=1)
    expected = {
        "median": np.median(x, axis=0),
        "trimmed_mean": looped_trimmed(x, 2),
        "krum": x[scores.argmin()],
        "multi_krum": x[np.argsort(scores)[:5]].mean(0),
        "norm_bound": (sizes * np.minimum(1, np.median(lengths) / lengths)) @ x,
    }[rule]
    found = np.concatenate([(sim.tensors[n].double().numpy() - before[n]).ravel() for n in seen])
    assert np.abs(found - expected).max() < 1e-6
    monkeypatch.setattr("ffalora_cli.federation.round.CHUNK_BYTES", 1)
    chunked = federate(combination=rule, assumed_bad=2)
    chunked.play(1)
    for name in seen:
        torch.testing.assert_close(chunked.tensors[name], sim.tensors[name])


def test_uploads_that_do_not_fit_together_are_refused_before_the_run(monkeypatch):
    monkeypatch.setattr(robust, "MOST_BYTES", 7 * 8 * 512 - 1)  # 512 values a client
    federate(combination="mean")
    with pytest.raises(ConfigError, match=r"combination=median needs all 7 .* at most 6, or"):
        federate(combination="median")
