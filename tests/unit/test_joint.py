"""A pass of several jobs is each of them."""

from __future__ import annotations

import dataclasses

import pytest

from ffalora_cli.engine import build_engine, joint
from ffalora_cli.engine.job import LocalOptimizer
from tests.tiny import TinyExamples, tiny_network
from tests.unit.test_engines import gap, job


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("kind", ["flat", "per_layer", "automatic"])
def test_a_pass_of_unlike_jobs_is_each_of_them(kind, fixed):
    """Other A, clip, noise, secret, optimiser, rows, number of steps and of clients."""
    network, examples = tiny_network(), TinyExamples(80)
    one = job(network, clip=0.05)
    two = job(network, clients=(3, 4), steps=2, clip=4.0, optimizer=LocalOptimizer("adamw", 0.01))
    three = job(network, clients=(1, 5), private=False)
    jobs = [one, two, three] if kind != "automatic" else [one, two]
    for number, found in enumerate(jobs):
        common = {n: v + 0.1 * number for n, v in found.common.items()}
        privacy = found.privacy and dataclasses.replace(
            found.privacy, clip=kind, secret=bytes([number]) * 32
        )
        jobs[number] = dataclasses.replace(found, common=common, privacy=privacy)
    assert all(joint.fit(jobs[0], other) for other in jobs)
    engine = build_engine("stacked", network, examples, 64)
    engine.fixed = fixed
    for found, got in zip(jobs, engine.train_together(jobs), strict=True):
        wanted = engine.train(found)
        assert gap(got.trained, wanted.trained) < 1e-5
        assert got.loss_sum == pytest.approx(wanted.loss_sum, rel=1e-5)
        for name in ("examples", "clipped", "nonfinite"):
            assert (getattr(got, name) == getattr(wanted, name)).all()
        assert got.tokens == wanted.tokens


def test_what_does_not_fit_one_pass():
    network = tiny_network()
    one = job(network)
    automatic = dataclasses.replace(one.privacy, clip="automatic")
    assert joint.fit(one, job(network, private=False, clients=(1,)))
    assert not joint.fit(one, job(network, factors=("lora_a", "lora_b")))
    assert not joint.fit(one, job(network, dropout=0.1))
    assert not joint.fit(one, dataclasses.replace(one, privacy=automatic))
    assert not joint.fit(one, job(tiny_network(rank=2)))
