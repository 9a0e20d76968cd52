"""Mironov's attack (2012): who knows all other rows reads off a release which candidate was in it.

Two observers, both without any statistics of the noise. One knows which values the generator can
make at all (pairs of a radius and an angle that is an fp32 number). The other knows only that the
noise was an fp32 number: where the sum is finer than the noise's grid, the sum's own last bits come
through.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch

from ffalora_cli.engine.job import ExamplePrivacy, LocalJob, LocalOptimizer, StepBatches
from ffalora_cli.engine.reference import _client_noise, _optimizer_class
from ffalora_cli.engine.stacked import engine
from ffalora_cli.engine.stacked.round_tensors import RoundTensors
from ffalora_cli.federation.server.release import ClientRelease, LocalRelease
from ffalora_cli.keys import SecureKey, derive, secure_normal
from ffalora_cli.privacy.mechanism.adaptive_clip import released_share
from ffalora_cli.privacy.planning.make import make_plan
from tests.privacy.cases import federation, privacy

SIZE, TRIALS = 50_000, 12
BY_CHANCE = (1, 11)  # of 12 coins; outside with probability 0.0005


def step(total: torch.Tensor, sd: float, secret: bytes) -> torch.Tensor:
    """A client's sum of clipped gradients, noised as the engine does in a local step."""
    job = _job(sd, secret)
    tensors = RoundTensors.of(job, torch.device("cpu"))
    tensors.total.copy_(total[None])
    engine._privatise(job, 0, job.batches[0], tensors)
    return tensors.total[0]


def reference_step(total: torch.Tensor, sd: float, secret: bytes) -> torch.Tensor:
    """The same by the reference engine's optimiser."""
    from opacus.grad_sample import GradSampleModule

    job = _job(sd, secret)
    layer = GradSampleModule(torch.nn.Linear(SIZE, 1, bias=False))
    plain = torch.optim.SGD(layer.parameters(), lr=1.0)
    settings = {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "expected_batch_size": 1}
    optimizer = _optimizer_class()(plain, **settings)
    (weight,) = optimizer.params
    weight.summed_grad = total[None]
    optimizer.noise_for_step = [n[None] for n in _client_noise(job, 0, 0, torch.device("cpu"))]
    optimizer.add_noise()
    return weight.grad[0]


def upload(total: torch.Tensor, sd: float, secret: bytes) -> torch.Tensor:
    """A client's whole upload with local noise."""
    plan = _client_plan(sd / 2, client_noise="local")
    zero = {"w": torch.zeros(SIZE)}
    return LocalRelease(plan, secret).uploads(1, np.arange(1), zero, {"w": total[None]})["w"][0]


def mean(total: torch.Tensor, sd: float, secret: bytes) -> torch.Tensor:
    """The server's sum of uploads, over a cohort of four: a power of two loses no bit."""
    plan = _client_plan(sd)
    release = ClientRelease(plan, secret)
    return 4 * release.mean(1, {"w": total.double()}, {"w": torch.zeros(SIZE)})["w"]


def _job(sd, secret):
    none = np.zeros(0, np.int64)
    private = ExamplePrivacy(1.0, np.array([sd]), np.ones(1), secret)
    start = {"w": torch.zeros(1, SIZE)}
    optimizer = LocalOptimizer("sgd", 1.0)
    batches = [StepBatches(none, none)]
    return LocalJob(1, np.zeros(1, np.int64), batches, start, {}, ("w",), optimizer, private)


@functools.cache
def _client_plan(sd, **more):
    given = privacy(unit="client", epsilon_target=None, noise_multiplier=sd, max_grad_norm=8.0)
    given = given.__class__(**{**vars(given), **more, "max_grad_norm": 1.0})
    return make_plan(given, [9] * 4, federation(num_clients=4, rounds=1, weights="uniform"), ["w"])


PLACES = {"step": step, "reference": reference_step, "upload": upload, "mean": mean}


def made_by_box_muller(release: np.ndarray, candidate: np.ndarray, sd: float) -> float:
    """Share of the pairs of noise, were this the candidate, whose angle is an fp32 number.

    Of pairs close to a right angle: there the smaller value tells the angle far below fp32's grid.
    """
    x, y = ((release.astype(np.float64) - candidate) / sd).reshape(2, -1)
    steep = np.abs(x) < 0.004 * np.abs(y)
    angle = np.arctan2(y[steep], x[steep])
    nearest = angle.astype(np.float32)
    return float((np.abs(angle - nearest) < 0.05 * np.spacing(np.abs(nearest))).mean())


def made_by_any_fp32(release: np.ndarray, candidate: np.ndarray, sd: float) -> float:
    """Share of releases that some fp32 noise can make of the candidate."""
    del sd
    exact = release.astype(np.float64) - candidate
    half = 0.5 * np.spacing(np.abs(release)).astype(np.float64)
    return float((np.abs(exact.astype(np.float32) - exact) <= half).mean())


def right(place, observer, sd: float, key) -> int:
    """Right guesses of ``TRIALS``: one clipped gradient, or nothing, beside known ones."""
    generator = np.random.default_rng(0)
    count = 0
    for trial in range(TRIALS):
        others = (generator.standard_normal(SIZE) * 0.002).astype(np.float32)
        gradient = generator.standard_normal(SIZE)
        gradient = (0.3 * gradient / np.linalg.norm(gradient)).astype(np.float32)
        inside = int(generator.integers(2))
        totals = (others, others + gradient)
        release = PLACES[place](torch.from_numpy(totals[inside]), sd, key(trial)).numpy()
        seen = [observer(release, total.astype(np.float64), sd) for total in totals]
        guess = int(seen[1] > seen[0]) if seen[0] != seen[1] else int(generator.integers(2))
        count += guess == inside
    return count


def plain(trial):
    return derive(trial, "attack")


def secure(trial):
    return SecureKey(derive(trial, "attack"))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("observer", "sd"), [(made_by_box_muller, 50.0), (made_by_any_fp32, 1.0)])
def test_the_attack_works_on_reproducible_noise_and_is_at_chance_on_secure(place, observer, sd):
    assert right(place, observer, sd, plain) == TRIALS
    assert BY_CHANCE[0] <= right(place, observer, sd, secure) <= BY_CHANCE[1]


def test_secure_noise_is_normal_the_same_for_the_same_key_and_finite_at_the_ends(monkeypatch):
    from scipy.stats import kstest

    drawn = secure_normal(b"k" * 32, (3, 100_000))
    assert kstest(drawn.ravel(), "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(drawn) - np.eye(3)).max() < 5 / math.sqrt(100_000)
    assert np.array_equal(drawn, secure_normal(b"k" * 32, (3, 100_000)))
    assert not np.isin(drawn, secure_normal(b"l" * 32, (3, 100_000))).any()
    for byte in (0, 255):

        class Ends:
            def digest(self, size, byte=byte):
                return bytes([byte]) * size

        monkeypatch.setattr("ffalora_cli.keys.hashlib.shake_256", lambda key: Ends())
        assert np.isfinite(secure_normal(b"", (4,))).all()


def test_whatever_is_derived_of_a_secure_key_is_secure():
    child = derive(derive(SecureKey(b"s" * 32), "noise", 1), 2)
    assert isinstance(child, SecureKey) and len(child) == 32
    assert not isinstance(derive(b"s" * 32, "noise"), SecureKey)


def test_the_count_of_an_adaptive_clip_takes_secure_noise():
    counts = np.full(2000, 10), np.full(2000, 20)
    ones = np.ones(2000)
    shares = {
        kind: released_share(*counts, range(2000), 1, 4, 5 * ones, 3 * ones, kind(0))
        for kind in (plain, secure)
    }
    for share in shares.values():  # (10 - 10 + 3 * sum of four) / 20 + 1/2
        assert share.mean() == pytest.approx(0.5, abs=5 * 0.3 / math.sqrt(2000))
        assert share.std() == pytest.approx(0.3, rel=0.1)
    drawn = [float(secure_normal(derive(secure(0), "count noise", 7, 1, s))) for s in range(4)]
    assert shares[secure][7] == pytest.approx(3 * sum(drawn) / 20 + 0.5)
    assert shares[plain][7] != shares[secure][7]
