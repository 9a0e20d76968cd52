"""What the rules let through; ``tests/compose/test_malformed_configs.py`` has what they refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError, brief, choose, listed, nearest
from ffalora_cli.config.rules import check
from ffalora_cli.config.schema import Config

ALLOWED = [
    "privacy.epsilon_target=null privacy.noise_multiplier=1.0",
    "privacy.noise_multiplier=1.0",
    "privacy.sampling=shuffled",
    "privacy.sampling=fixed privacy.accountant=rdp",
    "privacy.trials=12 privacy.trial_distribution=poisson",
    "privacy=none",
    "federation.num_clients=10 federation.cohort_size=3 federation.cohort_sampling=poisson",
    "federation.num_clients=10 federation.cohort_size=3 federation.cohort_sampling=fixed",
    "federation.cohort_size=3",
    "federation.combination=median federation.dropout_rate=0.3 federation.straggler_rate=0.1",
    "federation.combination=trimmed_mean federation.assumed_bad=1",
    "federation.num_clients=5 federation.combination=krum federation.assumed_bad=1",
    "federation=small federation.combination=multi_krum federation.assumed_bad=3",
    "federation.combination=norm_bound federation.max_upload_norm=2 federation.min_clients=0",
    "method=fedsvd federation.combination=median",
    "privacy=client federation.weights=uniform federation.dropout_rate=0.5",
    "privacy=client federation.weights=uniform federation.cohort_sampling=poisson "
    "federation.cohort_size=2",
    "task=mnli partition=severe",
    "task=sst2 partition=mild",
    "task=sst2 task.eval_on=test",
    "partition=natural task.client_column=author",
    "partition=quantity partition.dirichlet_alpha=0.1",
    "method=fedsa_lora",
    "head.mode=personal",
    "method=fedex_lora",
    "engine.max_tokens=128",
    "engine.device=cuda:1",
    "federation.local_optimizer=adamw",
    "diagnostics=mechanism",
    "privacy=client privacy.client_noise=local federation.weights=uniform diagnostics=mechanism",
    "+model.targets.mine=[query] adapter.targets=mine privacy.max_grad_norm=1",
    "method.options.anything=1",
    "federation.server_optimizer.name=yogi federation.server_optimizer.lr=0.01",
]


@pytest.mark.parametrize("typed", ALLOWED)
def test_possible_combinations_pass(typed) -> None:
    assert len(plan(typed.split())) == 1


@pytest.fixture(scope="module")
def config() -> Config:
    return plan([])[0].config


def test_units_and_refusal_come_from_the_method(config) -> None:
    check(config, units={"none", "text"})
    with pytest.raises(ConfigError, match=r"privacy\.unit=text.*because so; use privacy=client"):
        check(config, units={"none", "client"}, refusal="because so")
    with pytest.raises(ConfigError, match="use privacy=none"):
        check(config, units={"none"})


def test_plain_averaging_is_asked_for_only_where_it_is_needed(config) -> None:
    federation = config.federation
    for change in ({"lr": 0.5}, {"momentum": 0.9}, {"name": "adam"}):
        server = replace(federation.server_optimizer, **change)
        other = replace(config, federation=replace(federation, server_optimizer=server))
        check(other, units={"text"})
        with pytest.raises(ConfigError, match="server_optimizer"):
            check(other, units={"text"}, needs_plain_averaging=True)


def test_errors_stay_one_readable_line() -> None:
    many = [f"some_rather_long_name_{i}" for i in range(100)]
    text = str(choose("key", "x" * 500, many))
    assert len(text) < 200
    assert "(100 in all)" in text
    assert listed(["a", "b"]) == "a, b"
    assert len(brief("y" * 500)) <= 40
    assert nearest("GLUE_SST2", ["glue_sst2", "other"]) == "glue_sst2"
    assert nearest("zzz", ["glue_sst2"]) is None
