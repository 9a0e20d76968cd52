from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from ffalora_cli.engine.job import ExamplePrivacy, LocalJob, LocalOptimizer, StepBatches
from ffalora_cli.engine.stacked import engine
from ffalora_cli.engine.stacked.round_tensors import RoundTensors
from ffalora_cli.keys import SecureKey, derive, place
from ffalora_cli.privacy.mechanism.example_level import step_noise
from ffalora_cli.privacy.mechanism.secret import run_secret

LAYOUT = {"q.lora_b": (64, 8), "v.lora_b": (64, 8), "head.bias": (3,)}
SECRET = run_secret("reproducible", 0, "signature", "inputs")
KINDS = pytest.mark.parametrize("kind", [bytes, SecureKey])


def draw(clients=(0, 1), sd=1.0, secret=SECRET, round=1, step=0, layout=LAYOUT, **more):
    return step_noise(layout, clients, np.full(len(clients), sd), secret, round, step, **more)


@KINDS
def test_same_key_same_bits_in_any_company(kind):
    whole = draw((3, 7, 9), secret=kind(SECRET))
    for some in (*itertools.permutations((3, 7, 9)), (7,), (9, 3)):
        rows = [(3, 7, 9).index(client) for client in some]
        assert torch.equal(draw(some, secret=kind(SECRET)), whole[rows])


def test_no_two_draws_or_tensors_are_related():
    """Of secrets, rounds, steps, clients and the tensors of one draw, values and squares."""
    drawn = []
    for secret in (SECRET, run_secret("reproducible", 1, "signature", "inputs")):
        for round, step in ((1, 0), (1, 1), (2, 0), (0, 1)):
            layout = {"q.lora_b": (128, 32), "v.lora_b": (128, 32)}
            flat = draw((0, 1, 10), secret=secret, round=round, step=step, layout=layout)
            drawn += [*flat.view(6, 4096)]
    values = torch.stack(drawn).double()  # [48, 4096]
    for compared in (values, values.square()):
        correlation = torch.corrcoef(compared) - torch.eye(len(values))
        assert correlation.abs().max() < 5.5 / 4096**0.5


@KINDS
def test_a_flat_draw_is_normal_to_its_ends(kind):
    """Shape, moments and tails; 5 standard deviations of each estimate."""
    flat = draw((0,), secret=kind(SECRET), layout={"a": (999, 1001)})[0].double().numpy()
    n = len(flat)
    assert kstest(flat, "norm").pvalue > 1e-3
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((flat**power).mean() - mean) < 5 * (variance / n) ** 0.5
    beyond = 6.334e-5 * n  # of 4 sd
    assert abs((np.abs(flat) > 4.0).sum() - beyond) < 5 * beyond**0.5


def test_noise_is_finite_at_the_ends_of_its_bits(monkeypatch):
    for word in (0, 2**64 - 1, 2**31, 2**63):

        class Ends:
            def random_raw(self, count, word=word):
                return np.full(count, word, np.uint64)

        monkeypatch.setattr("ffalora_cli.keys._philox", lambda key: Ends())
        drawn = draw()
        assert drawn.isfinite().all() and drawn.abs().max() < 6.8


def test_sd_is_the_one_asked_for_per_client():
    sd = np.array([0.5, 2.0, 40.0])
    noise = step_noise({"a": (400, 500)}, [0, 1, 2], sd, SECRET, 1, 0)
    assert noise.dtype == torch.float32
    assert noise.std(1).tolist() == pytest.approx(sd.tolist(), rel=0.008)  # 5 sd of the estimate
    assert (noise.mean(1) / torch.from_numpy(sd)).abs().max() < 5 / 200_000**0.5


@KINDS
def test_a_client_of_less_rank_draws_as_if_all_were_of_its_rank(kind):
    def layout(rank):
        return {"q.lora_a": (rank, 64), "q.lora_b": (32, rank), "head.bias": (3,)}

    def own(ranks):
        return {n: np.array([layout(r)[n] for r in ranks]) for n in ("q.lora_a", "q.lora_b")}

    secret = kind(SECRET)
    mixed = draw((5, 6, 7), secret=secret, layout=layout(8), extents=own((2, 8, 3)))
    assert torch.equal(mixed[1], draw((6,), secret=secret, layout=layout(8))[0])
    for slot, client, rank in ((0, 5, 2), (2, 7, 3)):
        alone = draw((client,), secret=secret, layout=layout(rank))[0]
        a, b, bias = mixed[slot].split([8 * 64, 32 * 8, 3])
        a, b = a.view(8, 64), b.view(32, 8)
        assert torch.equal(torch.cat([a[:rank].flatten(), b[:, :rank].flatten(), bias]), alone)
        assert not a[rank:].any() and not b[:, rank:].any()


def test_an_empty_cohort_draws_nothing():
    assert draw(()).shape == (0, 1027)


def test_every_client_of_a_large_cohort_gets_its_noise_once():
    """The engine takes some clients at a time; ranks differ."""
    clients, none = np.arange(3, 43), np.zeros(0, np.int64)
    sd, extents = np.linspace(1.0, 2.0, 40), {"b": np.array([(5, 1 + i % 4) for i in range(40)])}
    private, start = ExamplePrivacy(1.0, sd, np.full(40, 2.0), SECRET), {"b": torch.zeros(40, 5, 4)}
    batches, optimizer = [StepBatches(none, none)], LocalOptimizer("sgd", 1.0)
    job = LocalJob(2, clients, batches, start, {}, ("b",), optimizer, private, extents=extents)
    tensors = RoundTensors.of(job, torch.device("cpu"))
    tensors.total.fill_(3.0)
    engine._privatise(job, 0, batches[0], tensors)
    noise = step_noise({"b": (5, 4)}, clients, sd, SECRET, 2, 0, extents=extents)
    assert torch.equal(tensors.total, (3.0 + noise) / 2.0) and engine.NOISED_AT_ONCE < 40


class Philox:
    """What a GPU's generator keeps: torch's checks of a seed and an offset, and no bits."""

    def manual_seed(self, seed):
        assert 0 <= seed < 2**64
        self.seed, self.offset = seed, 0
        return self

    def set_offset(self, offset):
        assert 0 <= offset < 2**63 and offset % 4 == 0
        self.offset = offset
        return self


def test_all_of_a_key_places_the_generator_of_a_gpu():
    def state(key):
        placed = place(Philox(), key)
        return placed.seed, placed.offset

    key = derive(SECRET, "noise", 3, 1, 0)
    assert state(key)[0] == int.from_bytes(key[:8], "little")
    assert state(bytes([255]) * 32) == (2**64 - 1, 2**63 - 4)
    for bit in range(128):
        other = (int.from_bytes(key[:16], "little") ^ 1 << bit).to_bytes(16, "little")
        assert (state(other) != state(key)) == (bit not in (64, 65, 66))
