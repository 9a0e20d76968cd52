"""The target patterns of the model files name layers that models of their family have."""

from __future__ import annotations

import pytest

from ffalora_cli.adapters.sites import find_sites
from ffalora_cli.compose import catalogue
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError
from tests.models.test_decoders import FAMILY as DECODERS
from tests.tiny import FAMILIES, MODELS, tiny_image_model, tiny_model

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
VISION = {
    "vit_base": "vit",
    "vit_small": "vit",
    "deit_small": "deit",
    "dinov2_small": "dinov2",
    "dinov2_packaged": "dinov2",
    "swin_tiny": "swin",
}
PATTERNS = ("value", "query_value", "attention", "all_linear")
# adapted layers per transformer layer, by pattern; ALBERT has one for all
PER_LAYER = {family: (1, 2, 4, 6) for family in FAMILIES}
PER_LAYER |= {"modernbert": (1, 1, 2, 4), "albert": (0.5, 1, 2, 3)}


def test_every_model_file_of_an_encoder_is_tested() -> None:
    """Language models have a test of their own."""
    others = {*DECODERS, *VISION, "auto", "auto_decoder"}
    assert set(FAMILY) | others == set(catalogue.options("model"))


@pytest.mark.parametrize("family", FAMILIES)
def test_patterns_match_exactly_the_layers_they_name(family) -> None:
    model = tiny_model(family)
    for name in (n for n, f in FAMILY.items() if f == family):
        config = plan([f"model={name}"])[0].config.model
        targets = config.targets
        assert set(targets) == set(config.max_grad_norm) == set(PATTERNS), name
        found = tuple(
            len(find_sites(model, targets[pattern])) / 2  # the tiny models have two layers
            for pattern in PATTERNS
        )
        assert found == PER_LAYER[family], name


@pytest.mark.parametrize("name", VISION)
def test_patterns_of_models_of_images_match_the_layers_they_name(name) -> None:
    config = plan([f"model={name}"])[0].config.model
    assert set(config.targets) == set(config.max_grad_norm) == set(PATTERNS)
    layers = 4 if name == "swin_tiny" else 2
    found = [
        len(find_sites(tiny_image_model(VISION[name]), config.targets[pattern])) / layers
        for pattern in PATTERNS
    ]
    assert found == [1, 2, 4, 6]


@pytest.mark.parametrize("family", FAMILIES)
def test_auto_finds_the_same_layers_as_the_family_file(family) -> None:
    model = tiny_model(family)
    auto = plan(["model=auto", "model.source=some/model"])[0].config.model.targets
    own = plan([f"model={next(n for n, f in FAMILY.items() if f == family)}"])[0].config.model
    for pattern in PATTERNS:
        assert find_sites(model, auto[pattern]) == find_sites(model, own.targets[pattern])


@pytest.mark.parametrize("family", sorted(set(MODELS) - {"albert"}))
def test_the_last_layers_and_numbered_ones(family) -> None:
    model, targets = tiny_model(family), MODELS[family][2]
    everywhere = find_sites(model, targets)
    last, first = find_sites(model, targets, 1), find_sites(model, targets, (0,))
    assert [*first, *last] == everywhere and len(first) == len(last)
    assert all(".0." in site.name for site in first) and all(".1." in site.name for site in last)
    assert find_sites(model, targets, 2) == find_sites(model, targets, (1, 0)) == everywhere
    for beyond in (3, (0, 2)):
        with pytest.raises(ConfigError, match=r"adapter\.layers=.*: this model has 2 layers"):
            find_sites(model, targets, beyond)


def test_the_clip_follows_pattern_and_model() -> None:
    for words, clip in (
        ([], 0.5),
        (["adapter.targets=all_linear"], 0.9),
        (["adapter.targets=all_linear", "model=roberta_base"], 2.0),
        (["adapter.targets=all_linear", "model.max_grad_norm.all_linear=0.3"], 0.3),
        (["adapter.targets=value", "privacy.max_grad_norm=0.1"], 0.1),
    ):
        assert plan(words)[0].config.privacy.max_grad_norm == clip
    with pytest.raises(ConfigError, match=r"privacy\.max_grad_norm.*model\.max_grad_norm\.mine"):
        plan(["++model.targets.mine=[a]", "adapter.targets=mine"])
