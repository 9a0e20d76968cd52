"""Clip rules, adaptive clip, local noise: what goes together, and one readable line where not."""

from __future__ import annotations

import pytest

from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError

CLIENT = "privacy=client federation.weights=uniform "


@pytest.mark.parametrize(
    "typed",
    [
        "privacy.clip=per_layer",
        "privacy.clip=automatic",
        "privacy.clip_quantile=0.5",
        "privacy.clip_quantile=0.9 privacy.clip_count_noise=2 privacy.clip_lr=0.1",
        CLIENT + "privacy.client_noise=local",
        CLIENT + "privacy.client_noise=local method=fedex_lora",
        CLIENT + "privacy.client_noise=local method=fedsa_lora",
        CLIENT + "privacy.client_noise=local federation.cohort_size=2 "
        "federation.cohort_sampling=fixed",
    ],
)
def test_possible(typed) -> None:
    assert len(plan(typed.split())) == 1


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("privacy.clip=layer", "'per_layer'"),
        ("privacy.clip_quantile=1.0", "privacy.clip_quantile=1.0"),
        ("privacy.clip_quantile=0.5 privacy.clip=per_layer", "privacy.clip=flat"),
        ("privacy.clip_quantile=0.5 privacy.clip_count_noise=0.0", "privacy.clip_count_noise=0.0"),
        ("privacy.clip_lr=0.0", "privacy.clip_lr=0.0"),
        ("privacy.client_noise=local", "privacy=client"),
        ("privacy.client_noise=locally", "'local'"),
        ("privacy=none privacy.clip_quantile=0.5", "privacy.clip_quantile=0.5"),
        (CLIENT + "privacy.clip=automatic", "privacy.clip=flat"),
        (CLIENT + "privacy.clip_quantile=0.5", "privacy.clip_quantile=null"),
        (CLIENT + "method=fedex_lora", "fedex_lora"),
        ("privacy=client privacy.client_noise=local federation.weights=size", "weights=uniform"),
    ],
)
def test_refused_in_one_line(typed, said) -> None:
    with pytest.raises(ConfigError) as error:
        plan(typed.split())
    text = str(error.value)
    assert said in text and "\n" not in text and len(text) <= 200


def test_the_earlier_name_of_a_unit_is_read_with_a_note():
    (job,) = plan(["privacy.unit=example"])
    assert job.config.privacy.unit == job.resolved["privacy"]["unit"] == "row"
    assert job.notes == ("privacy.unit=example is read as privacy.unit=row",)
    (same,) = plan(["privacy.unit=row"])
    assert same.signature == job.signature and same.notes == ()
