"""Client-level privacy without a trusted server: clients clip and noise their own uploads."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.federation.server.release import LocalRelease
from ffalora_cli.methods import registry
from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.privacy.claim.spent import spent
from ffalora_cli.privacy.claim.statement import sentence, statement
from ffalora_cli.privacy.planning.make import make_plan
from tests.federation.test_simulation import FEDERATION, PRIVATE, changed, simulate
from tests.privacy.cases import federation, privacy

LOCAL = dataclasses.replace(
    PRIVATE, unit="client", client_noise="local", delta=1e-2, noise_multiplier=2.0
)
UNIFORM = dataclasses.replace(FEDERATION, weights="uniform")
SECRET = b"s" * 32


def analytic_noise(target, delta, sensitivity):
    """Sd of one Gaussian release (Balle & Wang 2018, theorem 8), by bisection."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    def excess(sd):
        a, b = sensitivity / (2 * sd), target * sd / sensitivity
        return norm.cdf(a - b) - np.exp(target) * norm.cdf(-a - b) - delta

    return brentq(excess, 1e-2 * sensitivity, 1e3 * sensitivity)


@pytest.mark.parametrize("rounds", [1, 20])
def test_noise_is_for_replacing_all_rows_of_a_client(rounds):
    """Sensitivity 2C; T equal Gaussians are one with noise / sqrt(T)."""
    given = privacy(unit="client", client_noise="local", accountant="pld", delta=1e-3)
    plan = make_plan(given, [9] * 5, federation(num_clients=5, rounds=rounds), ["a"])
    wanted = analytic_noise(6.0, 1e-3, 2.0) * np.sqrt(rounds)
    assert plan.added_noise == pytest.approx([wanted] * 5, rel=5e-4)
    assert (plan.relation, plan.sample_rate.tolist()) == ("replace one", [1.0] * 5)
    assert not plan.charges_everybody


def test_sampling_the_cohort_does_not_amplify_but_saves_rounds():
    some = federation(num_clients=10, cohort_size=3, cohort_sampling="fixed")
    given = privacy(unit="client", client_noise="local", delta=1e-3)
    plan = make_plan(given, [9] * 10, some, ["a"])
    assert plan.planned_steps.tolist() == [358] * 10  # mean + 4 sd of 1000 rounds
    assert plan.accounted_rate.tolist() == [1.0] * 10
    z = float(plan.noise_multiplier[0])
    assert plan.epsilon_planned[0] == Accountant("rdp", 1e-3).epsilon([(z, 1.0, 358)])
    assert spent(plan, np.full(10, 100))[0] == Accountant("rdp", 1e-3).epsilon([(z, 1.0, 100)])


def test_the_statement_says_what_is_protected_and_by_whom():
    given = privacy(unit="client", client_noise="local", delta=1e-3)
    plan = make_plan(given, [9] * 5, federation(num_clients=5, rounds=3), ["a"])
    text = sentence(plan)
    assert "unit client, replace one" in text and "no amplification" in text
    assert "every client in every round" not in text and "any client" in text
    said = statement(plan)["mechanism"]
    assert said["sensitivity"] == 2 * plan.max_grad_norm
    assert "need not be trusted" in said["noise_by"] and "personal" in said["noise_by"]
    assert said["noise_on_release"] == pytest.approx([2 * plan.noise_multiplier[0]] * 2)


def test_weights_by_size_are_refused():
    given = privacy(unit="client", client_noise="local", delta=1e-3)
    with pytest.raises(ConfigError, match=r"federation\.weights=uniform"):
        make_plan(given, [9] * 5, federation(num_clients=5, weights="size"), ["a"])


def release(clients=400, noise=2.0):
    given = privacy(
        unit="client", client_noise="local", delta=1e-3, epsilon_target=None,
        noise_multiplier=noise, max_grad_norm=0.5,
    )  # fmt: skip
    plan = make_plan(given, [9] * clients, federation(num_clients=clients, rounds=2), ["a"])
    return LocalRelease(plan, SECRET)


def test_every_upload_is_clipped_whole_and_carries_its_own_noise():
    ids = np.arange(400)
    before = {"a": torch.ones(20, 5), "head.b": torch.zeros(30)}
    generator = torch.Generator().manual_seed(0)
    trained = {
        n: v + 3 * torch.randn(400, *v.shape, generator=generator) for n, v in before.items()
    }
    sent = release().uploads(1, ids, before, trained)
    nearly = release(noise=1e-1).uploads(1, ids, before, trained)
    change = {n: sent[n] - before[n] for n in sent}
    quiet = {n: nearly[n] - before[n] for n in nearly}
    noise = torch.cat([(change[n] - quiet[n]).flatten(1) for n in sent], 1)  # [400, 130]
    assert noise.std() == pytest.approx(2 * (2.0 - 0.1) * 0.5, rel=0.02)
    clipped = torch.cat(
        [(change[n] - 2.0 / 1.9 * (change[n] - quiet[n])).flatten(1) for n in sent], 1
    )
    assert clipped.norm(dim=1).tolist() == pytest.approx([0.5] * 400, rel=1e-3)
    related = torch.corrcoef(noise[:40].double()) - torch.eye(40)
    assert related.abs().max() < 5.5 / 130**0.5
    again = release().uploads(1, ids[7:8], before, {n: v[7:8] for n, v in trained.items()})
    later = release().uploads(2, ids, before, trained)
    for n in sent:
        assert torch.equal(again[n][0], sent[n][7])
        assert not torch.equal(later[n], sent[n])


@pytest.mark.parametrize("name", registry.names())
def test_any_method_runs_and_clients_pay_for_their_own_rounds(name):
    some = dataclasses.replace(UNIFORM, cohort_size=2, cohort_sampling="fixed", rounds=4)
    sim = simulate(name, head="trained", privacy=LOCAL, federation=some)
    taken = np.zeros(4, int)
    for record in sim.rounds():
        taken[[line["client"] for line in record.clients]] += 1
    assert sim.privacy_ledger.steps_taken.tolist() == taken.tolist() and taken.sum() == 8
    assert changed(sim).isdisjoint(sim.personal)


def test_what_is_packed_is_the_noised_upload(monkeypatch):
    """The server's mean is the mean of the packed uploads: noise sd 2 z C over the square root."""
    quiet = dataclasses.replace(LOCAL, max_grad_norm=1e-3)  # no learning to speak of
    sim = simulate(privacy=quiet, federation=dataclasses.replace(UNIFORM, rounds=1))
    before = dict(sim.tensors)
    list(sim.rounds())
    moved = torch.cat([(sim.tensors[n] - before[n]).flatten() for n in changed(sim)])
    assert moved.std() == pytest.approx(2 * 2.0 * 1e-3 / np.sqrt(4), rel=0.12)


def test_personal_tensors_stay_and_are_not_noised():
    sim = simulate("fedsa_lora", privacy=LOCAL, federation=dataclasses.replace(UNIFORM, rounds=1))
    plain = simulate("fedsa_lora", private=False, federation=dataclasses.replace(UNIFORM, rounds=1))
    list(sim.rounds())
    list(plain.rounds())
    ids = np.arange(4)
    own = sim.client_states.gather(ids, sim.personal, sim.network.initial)
    same = plain.client_states.gather(ids, plain.personal, plain.network.initial)
    assert own and all(torch.equal(own[n], same[n]) for n in own)
