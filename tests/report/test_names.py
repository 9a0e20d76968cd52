"""Methods, keys and values as papers write them, and in one order everywhere."""

from __future__ import annotations

import pytest

from ffalora_cli.compose.catalogue import options
from ffalora_cli.report.names import METHODS, PAPER, RAW, Names


def test_every_method_of_ours_has_a_name_of_its_own() -> None:
    assert set(METHODS) == set(options("method"))
    assert len(set(METHODS.values())) == len(METHODS)
    assert next(iter(METHODS)) == "lora"  # the baseline comes first


@pytest.mark.parametrize(
    ("key", "value", "said", "raw"),
    [
        ("method", "ffa_lora", "FFA-LoRA", "ffa_lora"),
        ("partition.seed", "3", "partition seed = 3", "partition.seed = 3"),
        ("adapter.alpha", "8", "LoRA α = 8", "adapter.alpha = 8"),
        ("privacy.epsilon_target", "6", "ε = 6", "privacy.epsilon_target = 6"),
        ("privacy.epsilon_target", "null", "no privacy", "privacy.epsilon_target = null"),
        ("federation.max_upload_norm", "null", "max upload norm = none",
         "federation.max_upload_norm = null"),
        ("method", "my_own", "my_own", "my_own"),
        ("seed", "3", "seed = 3", "seed = 3"),
    ],
)  # fmt: skip
def test_values_beside_others(key, value, said, raw) -> None:
    assert (PAPER.said(key, value), RAW.said(key, value)) == (said, raw)


def test_options_ones_own() -> None:
    names = Names(own={"my_own": "Ours", "lora": "FedIT"})
    assert names.label(["method", "adapter.rank"], ["my_own", "8"]) == "Ours, rank = 8"
    assert names.value("method", "lora") == "FedIT"


def test_order_is_typed_then_ours_then_by_size() -> None:
    def order(key, values, **typed):
        return [row[0] for row in Names(typed=typed).ordered([key], [(v,) for v in values])]

    alphas = ["0.3", "100", "1e-05", "null", "10"]
    assert order("partition.dirichlet_alpha", alphas) == ["1e-05", "0.3", "10", "100", "null"]
    methods = ["my_own", "fedsvd", "ffa_lora", "lora"]
    assert order("method", methods) == ["lora", "ffa_lora", "fedsvd", "my_own"]
    typed = ["ffa_lora", "lora"]
    assert order("method", methods, method=typed) == [*typed, "fedsvd", "my_own"]
