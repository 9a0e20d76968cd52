"""The target patterns of the model files name layers that models of their family have."""

from __future__ import annotations

import pytest

from ffalora_cli.adapters.sites import find_sites
from ffalora_cli.compose import catalogue
from ffalora_cli.compose.jobs import plan
from tests.tiny import FAMILIES, tiny_model

FAMILY = {
    "minilm": "bert",
    "bert_base": "bert",
    "roberta_base": "roberta",
    "roberta_large": "roberta",
    "electra_small": "electra",
    "electra_base": "electra",
    "distilbert": "distilbert",
    "deberta_v3_base": "deberta",
    "modernbert_base": "modernbert",
    "albert_base": "albert",
}
# adapted layers per transformer layer: query_value, attention, all_linear; ALBERT has one for all
PER_LAYER = {family: (2, 4, 6) for family in FAMILIES}
PER_LAYER |= {"modernbert": (1, 2, 4), "albert": (1, 2, 3)}


def test_every_model_file_is_tested() -> None:
    assert set(FAMILY) | {"auto"} == set(catalogue.options("model"))


@pytest.mark.parametrize("family", FAMILIES)
def test_patterns_match_exactly_the_layers_they_name(family) -> None:
    model = tiny_model(family)
    for name in (n for n, f in FAMILY.items() if f == family):
        targets = plan([f"model={name}"])[0].config.model.targets
        found = tuple(
            len(find_sites(model, targets[pattern])) / 2  # the tiny models have two layers
            for pattern in ("query_value", "attention", "all_linear")
        )
        assert found == PER_LAYER[family], name


@pytest.mark.parametrize("family", FAMILIES)
def test_auto_finds_the_same_layers_as_the_family_file(family) -> None:
    model = tiny_model(family)
    auto = plan(["model=auto", "model.source=some/model"])[0].config.model.targets
    own = plan([f"model={next(n for n, f in FAMILY.items() if f == family)}"])[0].config.model
    for pattern in ("query_value", "attention", "all_linear"):
        assert find_sites(model, auto[pattern]) == find_sites(model, own.targets[pattern])
