"""A refused combination names what to type instead: typed, the next rule holds, until all do."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError

AXES = (
    "method=lora method=ffa_lora method=fedsvd method=fedex_lora method=fedsa_lora method=rolora",
    "privacy=none privacy=text privacy=client experiment=sst2_cpu",
    "federation.local_optimizer=adamw federation.local_momentum=0.9",
    "federation.server_optimizer.momentum=0.9 federation.server_optimizer.lr=0.5 "
    "federation.server_optimizer.name=adam",
    "federation.combination=median federation.combination=trimmed_mean federation.combination=krum "
    "federation.combination=norm_bound",
    "federation.cohort_size=2 federation.cohort_sampling=fixed federation.cohort_sampling=poisson",
    "federation.clip_gradients=1 model.dropout=0.1 federation.max_upload_norm=1 "
    "federation.weights=uniform diagnostics=mechanism",
    "privacy.client_noise=local privacy.sampling=fixed privacy.sampling=shuffled "
    "privacy.clip=automatic privacy.clip_quantile=0.5 privacy.rows_per_unit=2 "
    "privacy.participation_quantile=0.9 privacy.noise_multiplier=0.01",
    "head.mode=personal engine.precision=int8 engine=reference federation.lr_schedule=cosine "
    "federation.warmup_rounds=50 federation.lr_end=0.1 partition.dirichlet_alpha=null",
)
KEYS = re.compile(r"(?<![\w.])([a-z_]+(?:\.[a-z_]+)*)=([^\s,;()]+)")
STEPS = 6  # rules that one combination may break


def pairs(of: int) -> list[tuple[str, ...]]:
    """Every choice of values from so many axes."""
    axes = [axis.split() for axis in AXES]
    chosen = itertools.combinations(axes, of)
    return [typed for some in chosen for typed in itertools.product(*some)]


def follow(typed: tuple[str, ...]) -> list[str]:
    """The refusals of a combination, each followed to the letter (its first remedy)."""
    said: list[str] = []
    for _ in range(STEPS):
        try:
            plan(typed)
            return said
        except ConfigError as error:
            said.append(str(error))
        words = re.split(r"; (?:without privacy: )?", said[-1])[-1].split(", or ")[0]
        remedy = dict(KEYS.findall(words))
        kept = [text for text in typed if text.split("=")[0] not in remedy]
        typed = (*kept, *(f"{key}={value}" for key, value in remedy.items()))
    raise AssertionError("\n".join(said))


@pytest.mark.parametrize("typed", random.Random(8).sample(pairs(2), 150), ids=" ".join)
def test_every_remedy_helps(typed):
    said = follow(typed)
    assert len(set(said)) == len(said)


@pytest.mark.slow
@pytest.mark.parametrize(
    "typed", [*pairs(1), *random.Random(9).sample(pairs(3), 600)], ids=" ".join
)
def test_every_remedy_helps_among_three(typed):
    said = follow(typed)
    assert len(set(said)) == len(said)


@pytest.mark.parametrize("method", ["fedsvd", "fedex_lora"])
def test_of_a_server_optimizer_the_keys_at_fault_are_named(method):
    server = "federation.server_optimizer"
    with pytest.raises(ConfigError) as momentum:
        plan(["experiment=sst2_cpu", f"method={method}"])
    assert str(momentum.value) == (
        f"{server}.momentum=0.9: method={method} needs the uploads' plain mean; "
        f"set {server}.momentum=0.0"
    )
    with pytest.raises(
        ConfigError, match=f"{server}.name=adam {server}.lr=0.1: .*name=sgd .*lr=1.0$"
    ):
        plan([f"method={method}", f"{server}.name=adam", f"{server}.lr=0.1"])


def test_of_a_sweep_the_job_is_told_by_what_is_its_own():
    with pytest.raises(ConfigError, match=r"\(job 2 of 3: method=fedsvd\)$"):
        plan(["experiment=sst2_cpu", "method=lora,fedsvd,rolora"], sweep=True)
