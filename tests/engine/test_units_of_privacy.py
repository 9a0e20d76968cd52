"""Units of several rows: rows clipped, then their sum, against loops, Opacus and the definition."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from ffalora_cli import keys
from ffalora_cli.data.partition.partition import ClientRows
from ffalora_cli.engine.build import build_engine
from ffalora_cli.engine.job import (
    ExamplePrivacy,
    LocalJob,
    LocalOptimizer,
    LocalResult,
    StepBatches,
    stack_step,
)
from ffalora_cli.engine.stacked.engine import StackedEngine
from ffalora_cli.federation.server.release import ExampleRelease, adapt_clip
from ffalora_cli.privacy.mechanism import batches
from ffalora_cli.privacy.planning.make import make_plan
from tests.federation.test_simulation import OFFSETS, PRIVATE, simulate
from tests.tiny import TinyExamples, tiny_network

CLIP = 0.3
SIZES = (1, 1, 2, 7, 1, 19)  # rows of a client's units: a unit of 19 is cut by every micro-batch
ROWS = sum(SIZES)
RULES = ("flat", "per_layer", "automatic")


def units_job(network, rule="flat", clients=2, factors=("lora_a", "lora_b"), shuffle=True):
    """One noiseless step of plain SGD; every client has units of ``SIZES``, rows in any order."""
    unit = np.repeat(np.arange(len(SIZES)), SIZES)
    rows, units = [], []
    for client in range(clients):
        order = np.random.default_rng(client).permutation(ROWS) if shuffle else np.arange(ROWS)
        rows.append(client * ROWS + order)
        units.append(unit[order])
    start = {
        spec.name: network.initial[spec.name]
        + 0.2
        * torch.stack(
            [keys.normal(keys.derive(5, spec.name, k), spec.shape) for k in range(clients)]
        )
        for spec in network.specs
        if spec.kind == "adapter" and spec.factor in factors
    }
    return LocalJob(
        round=1,
        clients=np.arange(clients),
        batches=[stack_step(rows, units)],
        start=start,
        common={n: v for n, v in network.initial.items() if n not in start},
        trainable=tuple(start),
        optimizer=LocalOptimizer("sgd", 1.0),
        privacy=ExamplePrivacy(CLIP, np.zeros(clients), np.ones(clients), b"0" * 32, rule),
    )


def released(engine, job):
    """Noiseless sums of the step, float64 ``[clients, P]``."""
    result = engine.train(job)
    parts = [(job.start[n] - result.trained[n]).double().flatten(1) for n in job.trainable]
    return torch.cat(parts, 1), result


def cut(parts, rule, names):
    """One gradient by the rule, in float64, from the formulas."""
    parts = {n: p.double() for n, p in parts.items()}
    layers = {n: n.rpartition(".")[0] if rule == "per_layer" else "" for n in names}
    bound = CLIP / len(set(layers.values())) ** 0.5
    cut = {}
    for name in names:
        alike = [parts[n].flatten() for n in names if layers[n] == layers[name]]
        norm = float(torch.cat(alike).norm())
        factor = bound / (norm + 0.01) if rule == "automatic" else min(1.0, bound / (norm + 1e-6))
        cut[name] = factor * parts[name]
    return cut


def by_a_loop(network, examples, job, rule):
    """Row by row: gradient, clip, sum of the unit, clip, sum of the client."""
    engine = StackedEngine(network, examples, 512, ghost_norms=False)
    names, pairs = list(job.trainable), job.batches[0]
    sums = []
    for slot in range(len(job.clients)):
        total = {n: torch.zeros(job.start[n].shape[1:], dtype=torch.float64) for n in names}
        for unit in np.unique(pairs.units[pairs.slots == slot]):
            rows = pairs.rows[pairs.units == unit]
            whole = {n: torch.zeros_like(v) for n, v in total.items()}
            for row in rows:
                args = (np.array([slot]), np.array([row]), job.start, {}, job.common)
                _, grads = engine.per_example_gradients(*args)
                row_cut = cut({n: grads[n][0] for n in names}, rule, names)
                whole = {n: whole[n] + row_cut[n] for n in names}
            whole = cut(whole, rule, names) if len(rows) > 1 else whole
            total = {n: total[n] + whole[n] for n in names}
        sums.append(torch.cat([total[n].flatten() for n in names]))
    return torch.stack(sums)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", ["bert", "deberta"])  # without padding, and with
def test_rows_then_units_are_clipped_as_by_a_loop(family, rule):
    network, examples = tiny_network(family), TinyExamples(2 * ROWS)
    job = units_job(network, rule)
    expected = by_a_loop(network, examples, job, rule)
    for max_tokens in (24, 100, 4096):  # whatever the micro-batches cut
        found, result = released(StackedEngine(network, examples, max_tokens), job)
        assert float((found - expected).norm() / expected.norm()) < 2e-6
    assert result.examples.tolist() == [ROWS, ROWS]
    assert result.units.tolist() == [len(SIZES)] * 2


@pytest.mark.parametrize("rule", RULES)
def test_the_reference_engine_clips_units_alike(rule):
    network, examples = tiny_network("bert"), TinyExamples(2 * ROWS)
    job = units_job(network, rule)
    stacked, ours = released(build_engine("stacked", network, examples, 200), job)
    opacus, theirs = released(build_engine("reference", network, examples, 200), job)
    assert float((stacked - opacus).norm() / opacus.norm()) < 2e-5
    for name in ("examples", "units", "clipped", "nonfinite"):
        assert getattr(ours, name).tolist() == getattr(theirs, name).tolist()
    assert np.allclose(ours.loss_sum, theirs.loss_sum, rtol=1e-5)


def test_units_of_one_row_are_the_same_bits_as_no_units():
    network, examples = tiny_network("bert"), TinyExamples(2 * ROWS)
    job = units_job(network)
    step = job.batches[0]
    plain = dataclasses.replace(job, batches=[StepBatches(step.slots, step.rows)])
    single = StepBatches(step.slots, step.rows, np.arange(len(step.rows))[::-1].copy())
    alone = dataclasses.replace(job, batches=[single])
    engine = StackedEngine(network, examples, 100)
    assert torch.equal(released(engine, plain)[0], released(engine, alone)[0])


@pytest.mark.parametrize("rule", ["flat", "per_layer"])
def test_a_unit_and_a_row_of_it_move_the_sum_by_the_clip_at_most(rule):
    """The definition: all rows of a unit away, or any one of them; other rows look alike."""
    network = tiny_network("bert")
    examples = TinyExamples(ROWS)
    for row in range(1, 12):  # rows of one unit that say the same: their gradients add up
        examples.tokens[row] = examples.tokens[0]
        for column in (examples.lengths, examples.targets.values):
            column[row] = column[0]
    engine = StackedEngine(network, examples, 60)
    job = units_job(network, rule, clients=1)
    job = dataclasses.replace(job, privacy=dataclasses.replace(job.privacy, max_grad_norm=1e-3))

    def sum_of(rows, units):
        step = stack_step([np.array(rows)], [np.array(units)])
        return released(engine, dataclasses.replace(job, batches=[step]))[0][0] / 1e-3

    others, other_units = list(range(20, 29)), [5, 5, 5, 6, 7, 7, 8, 9, 9]
    without = sum_of(others, other_units)
    moved = []
    for count in (1, 2, 3, 8, 12):
        whole = sum_of([*others, *range(count)], [*other_units, *[1] * count])
        moved.append(float((whole - without).norm()))
        for left in range(count):
            fewer = [r for r in range(count) if r != left]
            part = sum_of([*others, *fewer], [*other_units, *[1] * len(fewer)])
            moved.append(float((whole - part).norm()))
    assert max(moved) <= 1.0 + 1e-5
    assert max(moved) > 0.99  # the clip is reached: the test looks where it matters
    # The old way, every row for itself: twelve rows of one text count twelve times.
    each = sum_of([*others, *range(12)], [*other_units, *range(20, 32)])
    assert float((each - without).norm()) > 11.0


def test_one_row_that_is_not_finite_drops_its_unit_and_nothing_else():
    network, examples = tiny_network("bert"), TinyExamples(2 * ROWS)
    job = units_job(network, clients=1, shuffle=False)
    step = job.batches[0]
    bad = int(np.flatnonzero(step.units == 3)[2])  # a row of the unit of seven

    class Broken(StackedEngine):
        def per_example_gradients(self, slots, rows, *rest):
            losses, grads = super().per_example_gradients(slots, rows, *rest)
            here = torch.from_numpy(rows == step.rows[bad])
            return losses, {
                n: torch.where(here.view(-1, *[1] * (g.dim() - 1)), torch.nan, g)
                for n, g in grads.items()
            }

    found, result = released(Broken(network, examples, 60), job)
    kept = step.units != 3
    less = StepBatches(step.slots[kept], step.rows[kept], step.units[kept])
    expected, _ = released(
        StackedEngine(network, examples, 60), dataclasses.replace(job, batches=[less])
    )
    assert float((found - expected).norm() / expected.norm()) < 1e-6
    assert (result.nonfinite.tolist(), result.units.tolist()) == ([1], [len(SIZES)])


def test_out_of_memory_in_a_unit_starts_the_step_again():
    network, examples = tiny_network("bert"), TinyExamples(2 * ROWS)
    job = units_job(network)
    expected, _ = released(StackedEngine(network, examples, 200), job)

    class Tight(StackedEngine):
        calls = 0

        def per_example_gradients(self, slots, rows, *rest):
            self.calls += 1
            if self.calls == 4:  # in the middle of a unit of several rows
                raise torch.OutOfMemoryError("no memory")
            return super().per_example_gradients(slots, rows, *rest)

    engine = Tight(network, examples, 200)
    found, result = released(engine, job)
    assert result.halvings == 1
    assert result.units.tolist() == [len(SIZES)] * 2
    assert float((found - expected).norm() / expected.norm()) < 1e-6


def test_units_are_drawn_with_all_their_rows():
    rows, units = np.arange(100, 110), np.array([0, 1, 0, 2, 1, 3, 0, 4, 5, 5])
    for step in range(50):
        drawn = batches.poisson_batch(b"k", 3, 1, step, np.arange(6), 0.4)
        got, of = batches.rows_of_units(b"k", 3, 1, step, drawn, rows, units)
        assert np.array_equal(got, rows[np.isin(units, drawn)])
        assert np.array_equal(of, units[np.isin(units, drawn)])


def test_of_a_large_unit_other_rows_are_used_every_step():
    rows, units = np.arange(30), np.repeat([0, 1, 2], [20, 2, 8])
    seen = set()
    for step in range(40):
        got, of = batches.rows_of_units(b"k", 0, 1, step, np.array([0, 1]), rows, units, most=3)
        assert np.bincount(of, minlength=3).tolist() == [3, 2, 0]
        again = batches.rows_of_units(b"k", 0, 1, step, np.array([0, 1]), rows, units, most=3)
        assert np.array_equal(got, again[0])
        seen |= set(got[of == 0].tolist())
    assert seen == set(range(20))


def test_equal_numbers_of_two_clients_are_two_units():
    step = stack_step(
        [np.array([4, 5, 6]), np.array([9, 8])], [np.array([0, 2, 0]), np.array([0, 0])]
    )
    assert step.units.tolist() == [0, 1, 0, 2, 2]


def test_units_of_clients_are_counted():
    clients = ClientRows(
        np.arange(7), np.array([0, 3, 3, 7]), np.array([0, 1, 0, 0, 0, 0, 0], np.int64)
    )
    assert clients.num_units.tolist() == [2, 0, 1]
    assert clients.units_of(2).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("sampling", ["poisson", "fixed", "shuffled"])
def test_a_federation_draws_divides_and_counts_units(sampling):
    """64 rows in 24 units on four clients: rate, batch and charge are of units."""
    privacy = dataclasses.replace(PRIVATE, unit="column", sampling=sampling)
    sim = simulate(privacy=privacy)
    units = np.concatenate([np.arange(size) % 6 for size in np.diff(OFFSETS)])
    sim.clients = ClientRows(sim.clients.rows, OFFSETS, units)
    sim.plan = make_plan(privacy, sim.clients.num_units, sim.config, sim.plan.covered)
    assert sim.plan.examples.tolist() == [6] * 4
    assert np.allclose(sim.plan.expected_batch, min(6, sim.config.local_batch_size))
    seen = []
    train = sim.engine.train
    sim.engine.train = lambda job: seen.append((job, train(job))) or seen[-1][1]
    record = sim.play(1)
    ((job, result),) = seen
    for step in job.batches:
        for slot in range(4):
            mine = step.slots == slot
            rows = step.rows[mine] - OFFSETS[slot]
            for unit in np.unique(rows % 6):  # every drawn unit with all its rows, as one unit
                whole = np.flatnonzero(np.arange(np.diff(OFFSETS)[slot]) % 6 == unit)
                assert np.array_equal(rows[rows % 6 == unit], whole)
                assert len(np.unique(step.units[mine][rows % 6 == unit])) == 1
            if sampling != "poisson":
                assert len(np.unique(rows % 6)) == min(6, sim.config.local_batch_size)
    drawn = sum(len(np.unique(step.units)) for step in job.batches)
    assert result.units.sum() == drawn
    assert result.examples.sum() == sum(len(step.rows) for step in job.batches) > drawn
    assert record.metrics["train/examples"] == result.examples.sum()
    assert record.metrics["train/clipped_share"] == result.clipped.sum() / drawn <= 1


def test_the_adaptive_clip_counts_units():
    """A unit of many rows counts once: its half is what the count's noise is planned for."""
    privacy = dataclasses.replace(
        PRIVATE, unit="column", clip_quantile=0.5, clip_count_noise=1e6, noise_multiplier=1.0
    )
    sim = simulate(privacy=privacy)
    quiet = dataclasses.replace(sim.plan, count_noise=np.full(4, 1e-9))
    none = np.zeros(1, np.int64)
    result = LocalResult({}, none, none + 40, none + 6, none + 2, none, 0, 0)
    release = ExampleRelease(quiet, b"k" * 32)
    args = (release, sim.communication, 1, np.array([0]), [result], sim.state)
    _, metrics = adapt_clip(*args)
    asked = quiet.steps_per_round * quiet.expected_batch[0]
    assert metrics["privacy/unclipped_share"] == pytest.approx((6 - 2 - 3) / asked + 0.5)
