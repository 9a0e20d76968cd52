"""What every method owes, for whatever files lie in the methods folder."""

import subprocess
import sys
from importlib.resources import files

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import MethodConfig, ServerOptimizerConfig
from ffalora_cli.federation.server.server import MeanAccumulator, apply_update, server_step
from ffalora_cli.federation.wire.downlink import plan
from ffalora_cli.federation.wire.ledger import CommunicationLedger
from ffalora_cli.federation.wire.payload import pack
from ffalora_cli.methods import registry
from ffalora_cli.methods.base import AggregateContext
from ffalora_cli.types import Dense, ServerState, Site

SITES = (Site("layer.0.query", 6, 5), Site("layer.1.value", 4, 9))
RANK, ALPHA = 2, 3.0  # alpha != rank: a forgotten scale shows
SCALE = ALPHA / RANK
WEIGHTS = np.array([0.5, 0.3, 0.2])
PLAIN = ServerOptimizerConfig(name="sgd", lr=1.0, momentum=0.0, beta2=0.99, tau=1e-3)
CONFIGS = files("ffalora_cli.configs") / "method"


@pytest.fixture(params=registry.names())
def method(request):
    return registry.get(request.param)


def initial_state(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for site in SITES:
        a = torch.randn(RANK, site.d_in, generator=generator, dtype=dtype)
        tensors[f"{site.name}.lora_a"] = a
        tensors[f"{site.name}.lora_b"] = torch.zeros(site.d_out, RANK, dtype=dtype)
    tensors["head.weight"] = torch.randn(3, 5, generator=generator, dtype=dtype)
    return ServerState(tensors, dict.fromkeys(tensors, 0))


def names_of(factors):
    return [f"{site.name}.{factor}" for site in SITES for factor in factors]


def train(method, state, round, clients=3, seed=0):
    """Stand-in for local training: every trained tensor moves, each client its own way."""
    generator = torch.Generator().manual_seed(100 * round + seed)
    stack = {}
    for name in names_of(method.exchange(round).trained):
        start = state.tensors[name]
        noise = torch.randn(clients, *start.shape, generator=generator, dtype=start.dtype)
        stack[name] = start + noise
    return stack


def aggregate(method, state, stack, round, weights=WEIGHTS):
    accumulator = MeanAccumulator()
    accumulator.add(stack, weights)
    mean, optimizer = server_step(PLAIN, state, accumulator.result())
    uploads = None if method.linear else stack
    context = AggregateContext(round, SITES, SCALE, {})
    update = method.aggregate(state, mean, uploads, torch.as_tensor(weights), context)
    return apply_update(state, update, round, SCALE, optimizer), update


def uploads_of(method, stack, round):
    return {name: stack[name] for name in names_of(method.exchange(round).uploaded)}


def merged(state):
    """Total change of the base weights by site."""
    total = {}
    for site in SITES:
        a, b = state.tensors[f"{site.name}.lora_a"], state.tensors[f"{site.name}.lora_b"]
        total[site.name] = SCALE * b @ a + state.base_delta.get(site.name, 0)
    return total


def test_declaration_is_complete(method):
    for field in ("title", "reference", "travels", "uplink_formula", "downlink_formula"):
        assert getattr(method, field).strip(), field
    assert "arXiv" in method.reference
    assert registry.get(method.name) is method
    units = {"none", "row", "text", "column", "client"}
    assert "none" in method.units
    assert method.units <= units
    assert bool(method.refusal) == (method.units != units), "refused units need a reason"
    assert method.linear or "client" not in method.units
    assert isinstance(method.linear, bool)


def test_config_file_belongs_to_the_method(method):
    path = CONFIGS / f"{method.name}.yaml"
    config = MethodConfig(**OmegaConf.to_container(OmegaConf.create(path.read_text())))
    assert config.name == method.name
    trained = max(len(one.trained) for round in method.cycle for one in round)
    assert config.trained_factors == {1: "one_factor", 2: "two_factors"}[trained]
    assert config.head == ("personal" if method.personal_head else "frozen")
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert "Reference: " in path.read_text()


def test_every_config_file_has_a_method():
    assert sorted(path.name for path in CONFIGS.iterdir()) == [
        f"{n}.yaml" for n in registry.names()
    ]


def test_declarations_need_no_torch():
    code = (
        "import sys; from ffalora_cli.methods import registry\n"
        "for name in registry.names():\n"
        "    m = registry.get(name); m.cycle, m.exchange(2), m.personal, m.reference\n"
        "assert registry.names() and 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_unknown_name_is_one_line_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'ffa_lora'") as caught:
        registry.get("fa_lora")
    assert "\n" not in str(caught.value)


def test_first_round_trains_b_and_uploads_are_trained(method):
    assert "lora_b" in method.exchange(1).trained  # B = 0: A alone would have no gradient
    for number in (1, 2, 3):
        one = method.exchange(number)
        assert set(one.uploaded) == set(one.trained) - set(method.personal)


@pytest.mark.parametrize("policy", ["cached", "stateless"])
def test_formulas_equal_the_ledger(method, policy):
    state = initial_state(torch.float32)
    ledger, clients = CommunicationLedger(3), np.arange(3)
    seeds = {"adapter": 1, "head": 2}
    personal = names_of(method.personal)
    for round in range(1, 6):
        last = np.full(3, round - 1)
        for group, items in plan(state, clients, last, policy, seeds, personal):
            packed = pack(items, "float32")
            assert not {item.name for item in items} & set(personal)
            ledger.add(round, "downlink", group, packed.lines)
        uploads = uploads_of(method, train(method, state, round), round)
        packed = pack([Dense(name, "adapter", t) for name, t in uploads.items()], "float32")
        ledger.add(round, "uplink", clients, packed.lines)
        state, _ = aggregate(method, state, uploads, round)

        up = 4 * sum(method.uplink_elements(site, RANK, round) for site in SITES)
        down = 4 * sum(method.downlink_elements(site, RANK, round, 3) for site in SITES)
        assert ledger.total("uplink", ["adapter"], [round]) == 3 * up
        sent = ledger.total("downlink", ["adapter", "merge"], [round])
        assert sent == 3 * down if policy == "cached" else sent >= 3 * down


def test_aggregate_keeps_names_shapes_and_its_inputs(method):
    state = initial_state()
    before = {name: value.clone() for name, value in state.tensors.items()}
    for round in (1, 2, 3):
        uploads = uploads_of(method, train(method, state, round), round)
        previous = {name: value.clone() for name, value in state.tensors.items()}
        after, update = aggregate(method, state, uploads, round)
        assert update.tensors.keys() <= state.tensors.keys()
        assert not set(update.tensors) & set(names_of(method.personal))
        for name, value in update.tensors.items():
            assert value.shape == before[name].shape
            assert value.dtype == before[name].dtype
            assert torch.isfinite(value).all()
        assert all(torch.equal(previous[name], state.tensors[name]) for name in previous)
        state = after


def test_client_order_does_not_matter(method):
    state = initial_state()
    order = [2, 0, 1]
    for round in (1, 2, 3):
        uploads = uploads_of(method, train(method, state, round), round)
        turned = {name: value[order] for name, value in uploads.items()}
        other, _ = aggregate(method, state, turned, round, WEIGHTS[order])
        state, _ = aggregate(method, state, uploads, round)
        expected = merged(state)
        for site, change in merged(other).items():
            torch.testing.assert_close(change, expected[site], rtol=0, atol=1e-10)


def test_clients_that_agree_are_the_global_model(method):
    state = initial_state()
    for round in (1, 2, 3):
        one = uploads_of(method, train(method, state, round, clients=1), round)
        alone = ServerState(
            {**state.tensors, **{name: value[0] for name, value in one.items()}},
            state.versions,
            base_delta=state.base_delta,
        )
        expected = merged(alone)
        agreed = {name: value.expand(3, *value.shape[1:]) for name, value in one.items()}
        state, _ = aggregate(method, state, agreed, round)
        for site, change in merged(state).items():
            torch.testing.assert_close(change, expected[site], rtol=0, atol=1e-10)


def test_exactness_is_as_declared(method):
    """Merged global model against the weighted mean of the clients' merged models, in numpy."""
    state = initial_state()
    for round in (1, 2, 3):
        stack = train(method, state, round)
        expected = {}
        for site in SITES:
            a, b = f"{site.name}.lora_a", f"{site.name}.lora_b"
            expected[site.name] = np.zeros((site.d_out, site.d_in))
            for client, weight in enumerate(WEIGHTS):
                product = (stack[b][client].numpy() if b in stack else state.tensors[b].numpy()) @ (
                    stack[a][client].numpy() if a in stack else state.tensors[a].numpy()
                )
                delta = state.base_delta.get(site.name, torch.zeros(site.d_out, site.d_in))
                expected[site.name] += weight * (SCALE * product + delta.numpy())
        state, _ = aggregate(method, state, uploads_of(method, stack, round), round)
        gap = max(np.abs(merged(state)[s].numpy() - expected[s]).max() for s in expected)
        if method.exact is not None:
            assert (gap < 1e-10) == method.exact, gap
        if method.exact is False:
            assert gap > 1e-3  # visibly inexact, not by rounding
