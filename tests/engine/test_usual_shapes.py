"""Few layouts for the micro-batches of a data set, and examples dealt out to be alike."""

from __future__ import annotations

import numpy as np
import pytest

from ffalora_cli.engine.microbatch import deal
from ffalora_cli.engine.stacked.usual_shapes import UsualShapes
from scripts.bench.workload import SST2_LENGTHS

RNG = np.random.default_rng(0)
SST2 = RNG.choice(np.arange(3, 51), 20_000, p=np.array(SST2_LENGTHS) / sum(SST2_LENGTHS))


def drawn(lengths, examples):
    """Lengths of a Poisson number of random rows, longest first."""
    return np.sort(RNG.choice(lengths, RNG.poisson(examples)))[::-1]


def holds(layout, lengths):
    owned = np.bincount(layout.owner[layout.owner >= 0], minlength=layout.examples)
    return owned[: len(lengths)].tolist() == lengths.tolist() and not owned[len(lengths) :].any()


@pytest.mark.parametrize(("examples", "most", "waste"), [(600, 6, 1.5), (240, 8, 1.7)])
def test_random_steps_have_few_layouts(examples, most, waste):
    shapes, seen, rows, tokens = UsualShapes(SST2), set(), 0, 0
    for _ in range(200):
        lengths = drawn(SST2, examples)
        layout, usual = shapes.holding(lengths)
        assert usual and holds(layout, lengths)
        seen.add(layout)
        rows, tokens = rows + len(layout.owner), tokens + lengths.sum()
    assert len(seen) <= most and rows < waste * tokens


def test_a_layout_depends_on_the_micro_batch_alone():
    """Whatever was laid out before, as in a run that goes on."""
    steps = [drawn(SST2, examples) for examples in (600, 40, 300)]
    used = UsualShapes(SST2)
    found = [used.holding(lengths) for lengths in steps]
    assert [UsualShapes(SST2).holding(lengths) for lengths in steps] == found


@pytest.mark.parametrize("lengths", [np.full(40, 50), np.full(300, 3), np.array([7])])
def test_an_unusual_micro_batch_is_held_too(lengths):
    layout, _ = UsualShapes(SST2).holding(lengths)
    assert holds(layout, lengths)
    assert len(layout.owner) <= 2 * lengths.sum() + 1000


def test_dealt_micro_batches_are_alike():
    lengths = RNG.permutation(SST2[:601])
    parts = deal(lengths, 2048, 1000)
    assert len(parts) == -(-lengths.sum() // 2048)
    assert sorted(np.concatenate(parts).tolist()) == list(range(601))
    assert max(len(part) for part in parts) - min(len(part) for part in parts) <= 1
    for part in parts:
        assert (np.diff(lengths[part]) <= 0).all() and lengths[part].sum() <= 2048 + 50
    layouts = {UsualShapes(SST2).holding(lengths[part]) for part in parts}
    assert len(layouts) <= 2 and all(usual for _, usual in layouts)
    assert len(deal(lengths, 10**6, 100)) == 7 and len(deal(lengths[:1], 1, 1)) == 1
