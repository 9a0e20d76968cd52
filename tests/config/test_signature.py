"""A run's identity changes with what can change its results, and with nothing else."""

from __future__ import annotations

import json
import re

import pytest

from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.signature import signature

SAME = [
    "name=other",
    "paths.runs=elsewhere",
    "paths.cache=somewhere",
    "tracking=wandb",
    "tracking.tags=[a]",
    "engine.device=cpu",
    "engine.max_tokens=4096",
    "engine.threads=1",
    "engine.share_secret=true",
    "adapter.alpha=8.0",
    "privacy.trials=12",
    "privacy.trial_distribution=poisson",
    "model.local_lr.adamw.two_factors=0.5",
]
OTHER = [
    "seed=1",
    "adapter.seed=1",
    "head.seed=1",
    "partition.seed=1",
    "adapter.rank=4",
    "method=lora",
    "task.max_length=64",
    "task.eval_on=tune",
    "federation.rounds=21",
    "federation.eval_every=2",
    "federation.local_lr=1.0",
    "federation.lr_schedule=cosine",
    "federation.warmup_rounds=3",
    "privacy.epsilon_target=3",
    "privacy.accountant=rdp",
    "privacy.sampling=shuffled",
    "privacy.noise_multiplier=1.0",
    "engine=reference",
    "engine.precision=bf16",
]


@pytest.fixture(scope="module")
def default() -> str:
    return plan([])[0].signature


def test_it_is_twelve_hex_digits(default) -> None:
    assert re.fullmatch(r"[0-9a-f]{12}", default)


@pytest.mark.parametrize("override", SAME)
def test_what_cannot_change_results_is_left_out(default, override) -> None:
    assert plan([override])[0].signature == default


def test_what_can_change_results_counts(default) -> None:
    found = [plan([override])[0].signature for override in OTHER]
    assert len({default, *found}) == len(OTHER) + 1


def test_looking_on_is_another_run_with_the_same_draws() -> None:
    plain, looking = (plan([f"diagnostics={name}"])[0] for name in ("none", "mechanism"))
    assert plain.signature != looking.signature
    assert plain.signature == plain.draw_signature == looking.draw_signature


def test_key_order_does_not_matter(default) -> None:
    resolved = plan([])[0].resolved
    backwards = json.loads(json.dumps(resolved), object_pairs_hook=lambda p: dict(reversed(p)))
    assert list(backwards) != list(resolved)
    assert signature(backwards) == default


@pytest.mark.parametrize(
    ("words", "known"),
    [
        ("model=auto", "56d7b46da492"),
        ("model=auto adapter.targets=all_linear", "b0c16cdfe8c8"),
        ("model=auto_decoder", "7332afdf7353"),
    ],
)
def test_auto_has_kept_its_identity_since_it_knows_more_families(words, known) -> None:
    assert plan([*words.split(), "model.source=a/b"])[0].signature == known
