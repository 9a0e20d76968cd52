"""What a round measures of its uploads, against whole products, pairs and draws in float64."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from ffalora_cli.adapters.lora import LoRA
from ffalora_cli.engine.job import LocalOptimizer
from ffalora_cli.federation.diagnostics import noise_sums, upload_noise
from ffalora_cli.federation.server.mechanism import Mechanism, ratios
from ffalora_cli.metric_keys import (
    CLIENT_COSINE,
    CLIENT_DRIFT,
    GAP,
    NOISE_LINEAR,
    NOISE_PRODUCT,
    NOISE_RATIO,
    UPDATE_NORM,
    gap_of,
)
from tests.arrivals import CLIENT, EXAMPLE, NONE, federate

SITES = {"wide": (7, 9, 2), "square": (4, 4, 2)}  # d_out, d_in, rank; 5 clients: 10 columns
PAIRS = {site: (f"{site}.b", f"{site}.a") for site in SITES}
LOCAL = dataclasses.replace(CLIENT, client_noise="local")


def given(clients=5, common=()):
    """Starts by name, uploads ``[clients, ...]`` and weights; ``common`` are not trained."""
    draw = np.random.default_rng(3)
    shapes = {f"{s}.b": (m, r) for s, (m, _, r) in SITES.items()}
    shapes |= {f"{s}.a": (r, n) for s, (_, n, r) in SITES.items()}
    before = {n: draw.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    uploads = {
        n: (before[n] + draw.normal(size=(clients, *s))).astype(np.float32)
        for n, s in shapes.items()
        if n[-1] not in common
    }
    return before, uploads, draw.dirichlet(np.ones(clients))


def measured(before, uploads, weights, chunks=((0, 2), (2, 3), (3, 5))):
    tensors = {n: torch.from_numpy(v) for n, v in before.items()}
    found = Mechanism(PAIRS, tensors, list(uploads))
    for a, b in chunks:
        found.add({n: torch.from_numpy(v[a:b]) for n, v in uploads.items()}, weights[a:b])
    return ratios([found.sums()], 0.5)


def by_hand(before, uploads, weights):
    """The gap of every site and of all, and the norm of the update, from whole products."""
    weights = weights / weights.sum()
    gaps, updates = {}, {}
    for site, (b, a) in PAIRS.items():
        b0, a0 = before[b].astype(np.float64), before[a].astype(np.float64)
        whole = [np.broadcast_to(v, (len(weights), *v.shape)) for v in (b0, a0)]
        bs, as_ = (uploads.get(n, w).astype(np.float64) for n, w in zip((b, a), whole, strict=True))
        mean = np.einsum("k,kmr,krn->mn", weights, bs, as_)
        lost = mean - np.tensordot(weights, bs, 1) @ np.tensordot(weights, as_, 1)
        gaps[site], updates[site] = np.linalg.norm(lost), np.linalg.norm(mean - b0 @ a0)
    found = {gap_of(site): gaps[site] / updates[site] for site in SITES}
    whole = np.linalg.norm(list(updates.values()))
    return found | {GAP: np.linalg.norm(list(gaps.values())) / whole, UPDATE_NORM: 0.5 * whole}


@pytest.mark.parametrize("arrived", [1.0, 0.6])  # of the cohort's weight
@pytest.mark.parametrize("common", ["", "a", "b"])
def test_it_is_what_whole_products_and_single_pairs_give(common, arrived):
    before, uploads, weights = given(common=common)
    found = measured(before, uploads, weights * arrived)
    flat = np.concatenate([v.reshape(5, -1) - before[n].ravel() for n, v in uploads.items()], 1)
    flat, mean = flat.astype(np.float64), np.tensordot(weights, flat.astype(np.float64), 1)
    far = np.sqrt(weights @ np.linalg.norm(flat - mean, axis=1) ** 2) / np.linalg.norm(mean)
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    cosine = np.mean([i @ j for i, j in itertools.combinations(unit, 2)])
    wanted = by_hand(before, uploads, weights) | {CLIENT_DRIFT: far, CLIENT_COSINE: cosine}
    assert found.keys() == wanted.keys()
    assert found == pytest.approx(wanted, rel=1e-6, abs=1e-14)
    if common:
        assert found[GAP] < 1e-15
    else:
        assert found[GAP] > 0.3


def test_how_uploads_come_in_does_not_matter():
    whole, parts = (measured(*given(), chunks=c) for c in (((0, 5),), ((0, 1), (1, 5))))
    assert whole == pytest.approx(parts, rel=1e-12)


def test_one_client_loses_nothing_and_has_nobody_to_be_apart_from():
    found = measured(*given(clients=1), chunks=((0, 1),))
    assert found.keys() == {UPDATE_NORM, GAP, *map(gap_of, SITES)}
    assert found[GAP] < 1e-14


def test_exchanges_of_a_round_add_up_in_squares():
    one = {"update s": 4.0, "gap s": 1.0, "mean": 1.0, "spread": 1.0, "pairs": 2.0, "cosine": -1.0}
    found = ratios([one, one | {"gap s": 3.0}], 1.0)
    assert found[GAP] == found[gap_of("s")] == pytest.approx(np.sqrt(4 / 8))
    assert (found[CLIENT_DRIFT], found[CLIENT_COSINE]) == (1.0, -0.5)
    assert ratios([], 1.0) == {}


def test_planned_noise_is_that_of_draws_through_the_optimiser():
    sgd = {"local_steps": 3, "local_momentum": 0.9, "local_weight_decay": 0.1}
    sim = federate("lora", EXAMPLE, **sgd)
    ids = np.array([1, 4])
    sd, release = upload_noise(sim, sim.state, 1, ids), sim.release(1)
    steps = release.privacy(ids, sim.state)
    torch.manual_seed(5)
    weight = torch.nn.Parameter(torch.zeros(2, 100_000))
    optimizer = LocalOptimizer("sgd", 0.5, 0.9, 0.1).build([weight])
    each = torch.from_numpy(steps.noise_sd / steps.expected_batch)[:, None]
    for _ in range(3):
        weight.grad = (each * torch.randn(weight.shape)).float()
        optimizer.step()
    assert sd == pytest.approx(weight.detach().std(1).numpy(), rel=0.01)


@pytest.mark.parametrize("privacy", [EXAMPLE, LOCAL])
def test_products_of_noise_are_those_of_draws(privacy):
    weighing = {} if privacy is EXAMPLE else {"weights": "uniform"}
    sim = federate("lora", privacy, **weighing)
    ids, weights = np.array([0, 2]), np.array([0.25, 0.75])
    before = {
        n: torch.randn(v.shape, generator=torch.manual_seed(1)) for n, v in sim.tensors.items()
    }
    sd, draws = upload_noise(sim, sim.state, 1, ids), 300
    wanted = np.zeros(2)  # z_B z_A; z_B A + B z_A
    for site in sim.network.sites:
        b, a = before[f"{site.name}.lora_b"], before[f"{site.name}.lora_a"]
        for weight, s in zip(weights, sd, strict=True):
            zb, za = s * torch.randn(draws, *b.shape), s * torch.randn(draws, *a.shape)
            both = (zb @ za, zb @ a + b @ za)
            wanted += [weight * v.square().sum((1, 2)).mean().item() for v in both]
    found = noise_sums(sim, sim.state, before, 1, ids, weights)
    assert [found["product"], found["linear"]] == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize(
    ("method", "privacy"),
    [("lora", NONE), ("lora", LOCAL), ("fedex_lora", LOCAL)]
    + [(method, EXAMPLE) for method in ("lora", "ffa_lora", "rolora", "fedsa_lora")],
)
def test_looking_on_changes_no_bit(method, privacy):
    changes = {"weights": "uniform", "rounds": 2, "straggler_rate": 0.3}
    plain, looking = (federate(method, privacy, **changes) for _ in range(2))
    looking.mechanism = True
    records = [list(sim.rounds()) for sim in (plain, looking)]
    assert all(torch.equal(v, looking.tensors[n]) for n, v in plain.tensors.items())
    for before, after in zip(*records, strict=True):
        assert {k for k in after.metrics if k not in before.metrics} >= {CLIENT_DRIFT}
        assert not any(key.startswith("mechanism/") for key in before.metrics)
        pair = method != "fedsa_lora"  # its B stays at home
        assert (GAP in after.metrics) == (UPDATE_NORM in after.metrics) == pair
        noised = privacy is not NONE and pair
        assert (NOISE_PRODUCT in after.metrics) == (NOISE_LINEAR in after.metrics) == noised
        if pair:
            assert (after.metrics[GAP] > 1e-3) == (method in ("lora", "fedex_lora"))
        if noised:
            over = after.metrics[NOISE_PRODUCT] / after.metrics[NOISE_LINEAR]
            assert after.metrics[NOISE_RATIO] == pytest.approx(over)
            assert (after.metrics[NOISE_PRODUCT] > 0) == (method in ("lora", "fedex_lora"))


def test_without_a_pair_or_linear_steps_the_rest_is_measured(monkeypatch):
    adam = federate("lora", EXAMPLE, rounds=1, local_optimizer="adamw")
    adam.mechanism = True
    (record,) = adam.rounds()
    assert NOISE_PRODUCT not in record.metrics and GAP in record.metrics
    monkeypatch.setattr(LoRA, "pair", ())
    other = federate("lora", EXAMPLE, rounds=1)
    other.mechanism = True
    (record,) = other.rounds()
    found = {key for key in record.metrics if key.startswith("mechanism/")}
    assert found == {CLIENT_DRIFT, CLIENT_COSINE}
