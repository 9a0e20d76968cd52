"""Private rounds against the rules: what is covered, empty batches, bad examples, cutting, keys."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from ffalora_cli import keys
from ffalora_cli.engine.build import build_engine
from ffalora_cli.engine.job import LocalOptimizer, stack_step
from ffalora_cli.engine.stacked.engine import StackedEngine
from ffalora_cli.methods.base import Exchange
from ffalora_cli.methods.ffa_lora import FFALoRA
from tests.engine.test_engines import gap, job
from tests.engine.test_per_example_gradients import cohort
from tests.federation.test_simulation import simulate
from tests.tiny import FAMILIES, TinyExamples, tiny_network

RULES = ("flat", "per_layer", "automatic")


class Cheat(FFALoRA):
    """Trains and uploads A from the third round on, which no plan was told."""

    def exchange(self, number):
        return Exchange(("lora_b",) if number < 3 else ("lora_a", "lora_b"))


def test_a_method_that_cheats_is_stopped_before_it_is_charged():
    sim = simulate()
    sim.method = Cheat()
    sim.play(1)
    sim.play(2)
    with pytest.raises(RuntimeError, match=r"lora_a.*not covered"):
        sim.play(3)
    assert sim.privacy_ledger.steps_taken.tolist() == [4] * 4


def test_a_thawed_backbone_is_stopped():
    sim = simulate()
    sim.network.model.bert.embeddings.word_embeddings.weight.requires_grad_(True)
    with pytest.raises(RuntimeError, match=r"word_embeddings.*not covered"):
        sim.play(1)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_frozen_tensors_keep_their_bits_and_trained_ones_all_move(family):
    """After one private step, on every architecture."""
    sim = simulate(head="trained", network=tiny_network(family))
    frozen = {n: p.clone() for n, p in sim.network.model.named_parameters()}
    sim.play(1)
    for name, parameter in sim.network.model.named_parameters():
        assert torch.equal(parameter, frozen[name]) and not parameter.requires_grad
    for name, value in sim.tensors.items():
        assert torch.equal(value, sim.network.initial[name]) == name.endswith("lora_a")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_forced_empty_batches_are_noised_charged_and_counted(family):
    """p(empty) = 1: the noise of every step of every client, nothing else, over expected B."""
    sim = simulate(network=tiny_network(family))
    never = np.full(4, 1e-12)
    sim.plan = dataclasses.replace(sim.plan, sample_rate=never)
    record = sim.play(1)
    assert record.metrics["train/examples"] == 0 and "train/loss" not in record.metrics
    assert sim.privacy_ledger.steps_taken.tolist() == [2] * 4
    moved = torch.cat([sim.tensors[f"{s.name}.lora_b"].flatten() for s in sim.network.sites])
    sizes = np.array([20, 12, 8, 24]) / 64  # weights of the mean; sgd lr 0.5, two steps, B 6
    sd = 0.5 * sim.plan.added_noise * 0.3 / sim.plan.expected_batch
    expected = np.sqrt(2 * (sizes**2 * sd**2).sum())
    assert float(moved.std()) == pytest.approx(expected, rel=5 / np.sqrt(2 * len(moved)))


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert"])
def test_nan_and_inf_rows_leave_the_others_bit_identical(family):
    """On packed (BERT, RoBERTa) and padded paths: through the model, not by hand."""
    network = tiny_network(family)
    pad = 1 if family == "roberta" else 0
    examples = TinyExamples(11, pad_id=pad)
    for row, bad in ((2, 58), (5, 59)):
        examples.tokens[row][1] = bad
    for row in set(range(11)) - {2, 5}:
        examples.tokens[row] = np.where(examples.tokens[row] >= 58, 7, examples.tokens[row])
    trained, common, slots, rows = cohort(network, examples, ("lora_a", "lora_b"), True)
    engine = StackedEngine(network, examples)
    _, clean = engine.per_example_gradients(slots, rows, trained, {}, common)
    words = network.model.get_input_embeddings().weight.data
    words[58], words[59] = float("nan"), float("inf")
    losses, found = engine.per_example_gradients(slots, rows, trained, {}, common)
    bad = np.isin(rows, [2, 5])
    assert not torch.isfinite(losses[bad]).any()
    for name in clean:
        assert torch.equal(found[name][~bad], clean[name][~bad])


@pytest.mark.parametrize("rule", RULES)
def test_which_bad_value_it_is_changes_no_bit_of_the_result(rule):
    """A NaN, an inf and an overflowing row count as zero alike; the other clients never notice."""
    examples = TinyExamples(36)
    results = {}
    for bad in (float("nan"), float("inf"), 1e30, None):
        network = tiny_network("bert")
        work = job(network, rate=1.0, steps=1, head=True)
        work = dataclasses.replace(work, privacy=dataclasses.replace(work.privacy, clip=rule))
        engine = build_engine("stacked", network, examples, 64)
        original = engine.per_example_gradients

        def poisoned(slots, rows, *tensors, bad=bad, original=original):
            losses, grads = original(slots, rows, *tensors)
            if bad is not None:
                for grad in grads.values():
                    grad[rows == 3] = bad
            return losses, grads

        engine.per_example_gradients = poisoned
        results[str(bad)] = engine.train(work)
    for bad in ("nan", "inf", "1e+30"):
        assert results[bad].nonfinite.tolist() == [1, 0, 0]
        for name, value in results[bad].trained.items():
            assert torch.equal(value, results["nan"].trained[name])
            assert torch.equal(value[1:], results["None"].trained[name][1:])


@pytest.mark.parametrize("rule", RULES)
def test_micro_batches_of_1_7_16_and_all_give_the_same_sum(rule):
    """The sums before noise, one client, 23 examples of equal length.

    The large rate makes the sum dwarf the weights it is added to, so its rounding shows.
    """
    network = tiny_network("bert")
    examples = TinyExamples(23)
    examples.lengths = np.full(23, 9, np.int32)
    examples.tokens = [np.resize(t, 9) for t in examples.tokens]
    work = job(
        network, clients=(0,), factors=("lora_a", "lora_b"), head=True, rows_each=23, rate=1.0,
        steps=1, optimizer=LocalOptimizer("sgd", 1e4), clip=1.0,
    )  # fmt: skip
    quiet = dataclasses.replace(work.privacy, clip=rule, noise_sd=np.zeros(1))
    work = dataclasses.replace(work, privacy=quiet)
    sums = []
    for size in (23, 16, 7, 1):
        trained = build_engine("stacked", network, examples, 9 * size).train(work).trained
        sums.append({n: work.start[n] - v for n, v in trained.items()})
    for found in sums[1:]:
        assert gap(found, sums[0]) < 1e-6


def test_divisor_is_the_expected_batch_whatever_was_drawn():
    """Two worlds: the same sum from batches of different size is scaled the same."""
    network = tiny_network("bert")
    examples = TinyExamples(24)
    base = job(network, clients=(0,), rate=1.0, steps=1, rows_each=12)
    engine = build_engine("stacked", network, examples, 1000)
    original = engine.per_example_gradients

    def zero_beyond(slots, rows, *tensors):
        losses, grads = original(slots, rows, *tensors)
        for grad in grads.values():
            grad[rows >= 12] = 0.0
        return losses, grads

    engine.per_example_gradients = zero_beyond
    small, large = (
        engine.train(dataclasses.replace(base, batches=[stack_step([np.arange(drawn)])])).trained
        for drawn in (12, 24)
    )
    halved = dataclasses.replace(
        base, privacy=dataclasses.replace(base.privacy, expected_batch=np.full(1, 24.0))
    )
    assert gap(large, small) < 1e-6
    moved = {n: v - base.start[n] for n, v in small.items()}
    less = {n: v - base.start[n] for n, v in engine.train(halved).trained.items()}
    assert gap({n: 2.0 * v for n, v in less.items()}, moved) < 1e-4  # B 12 doubled


def test_no_two_draws_of_a_run_share_a_key():
    """Every purpose, client, round, step and tensor, also where digits could run together."""
    secret, rounds = b"s" * 32, (1, 10, 11, 101)
    steps = list(itertools.product((0, 1, 10, 11, 110), rounds, (0, 1, 11)))
    tensors = itertools.product(rounds, ("q.lora_a", "q.lora_b", "1", "11", "head.bias"))
    places = [("poisson", *c) for c in steps] + [("count noise", *c) for c in steps]
    places += [("noise", *c) for c in steps] + [("server noise", *c) for c in tensors]
    places += [("cohort", i) for i in range(400)]
    drawn = [keys.derive(secret, *place) for place in places]
    upload = keys.derive(secret, "upload noise")
    drawn += [keys.derive(upload, "noise", *c) for c in steps]
    assert len({key[:16] for key in drawn}) == len(drawn) == 4 * 60 + 20 + 400
