"""One more row moves a step's sum by at most C: engine x family x method x clip rule."""

from __future__ import annotations

import itertools

import pytest

from ffalora_cli.audit.mechanism import one_more
from ffalora_cli.audit.mechanism.one_more import furthest_move
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.engine.correctness import check_per_example_gradients
from ffalora_cli.engine.reference import ReferenceEngine
from ffalora_cli.engine.stacked.engine import StackedEngine
from ffalora_cli.methods import registry
from tests.tiny import FAMILIES, TinyExamples, tiny_network

ROWS = 40
ENGINES = {
    "stacked": lambda *parts: StackedEngine(*parts, 64),
    "fixed": lambda *parts: StackedEngine(*parts, 64, fixed=True),
    "reference": lambda *parts: ReferenceEngine(*parts),
}
REFUSED = {("reference", "deberta")}
QUICK = {
    ("stacked", "bert", "flat"),
    ("stacked", "deberta", "automatic"),
    ("fixed", "bert", "flat"),
    ("reference", "bert", "per_layer"),
}


def trained_by_methods(network):
    """Every set of tensors that some method trains in some round, with and without the head."""
    kinds = {registry.get(name).exchange(n).trained for name in registry.names() for n in (1, 2)}
    for factors in sorted(kinds):
        for head in (False, True):
            yield [s.name for s in network.specs if s.factor in factors or head * s.kind == "head"]


@pytest.mark.parametrize(
    ("engine", "family", "clip"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for case in itertools.product(ENGINES, FAMILIES, ("flat", "per_layer", "automatic"))
        if case[:2] not in REFUSED
    ],
)
def test_one_more_row_moves_the_sum_by_at_most_the_clip(engine, family, clip):
    """Some gradients are shorter than C = 2 and some longer; all are longer than C = 0.02."""
    network = tiny_network(family)
    built = ENGINES[engine](network, TinyExamples(ROWS, pad_id=1 if family == "roberta" else 0))
    for seed, trained in enumerate(trained_by_methods(network)):
        for c in (2.0, 0.02):
            moved = furthest_move(built, network, trained, ROWS, c, clip, seed)
            assert 0.2 < moved <= 1.0 + 1e-6, (trained, c)


@pytest.mark.parametrize(("engine", "family"), sorted(REFUSED))
def test_what_is_refused_does_break_the_bound(engine, family):
    network, examples = tiny_network(family), TinyExamples(ROWS)
    trained = [s.name for s in network.specs if s.factor == "lora_b"]
    built = ENGINES[engine](network, examples)
    assert furthest_move(built, network, trained, ROWS, 0.02) > 1.05
    with pytest.raises(ConfigError, match="use engine=stacked"):
        check_per_example_gradients(network, examples, trained)


def test_the_search_finds_an_example_in_anothers_gradient(monkeypatch):
    """Its power, on a clip that lets every row through as it is."""
    network = tiny_network("bert")
    built = ENGINES["stacked"](network, TinyExamples(ROWS))
    original = built.per_example_gradients

    def leaking(*batch):
        losses, grads = original(*batch)
        return losses, {n: g + 0.1 * g.sum(0, keepdim=True) for n, g in grads.items()}

    trained = [s.name for s in network.specs if s.factor == "lora_b"]
    built.ghost_norms = False
    monkeypatch.setattr(one_more, "SIZES", (5, 8))
    assert furthest_move(built, network, trained, ROWS, 0.02) <= 1.0 + 1e-6
    monkeypatch.setattr(built, "per_example_gradients", leaking)
    assert furthest_move(built, network, trained, ROWS, 0.02) > 1.0 + 1e-3
