"""Oracle cells of what one noise means under other assumptions, and of tuning; delta 1e-5.

The reference's column of fixed-size batches takes the noise in units of one clip; replacing a row
moves the sum by two, so our claim is that bound at half the noise.
"""

from __future__ import annotations

import logging
import math

import pytest

from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.privacy.accounting.accountants import FINE
from ffalora_cli.privacy.accounting.sampling import replace_one_poisson, uses, without_replacement
from ffalora_cli.privacy.accounting.tuning import epsilon_of_search, tuned_epsilon

DELTA, STEPS = 1e-5, 10_000


ROWS = {"sst2": 67_349, "qnli": 104_743, "qqp": 363_846, "mnli": 392_702}
NOISE = {  # PLD, epsilon 6 / 3 / 1
    "sst2": (0.948725, 1.428176, 3.413822),
    "qnli": (0.761380, 1.046953, 2.264374),
    "qqp": (0.529954, 0.632486, 0.905483),
    "mnli": (0.521916, 0.621724, 0.871677),
}
REPLACED = {
    "sst2": (10.281, 5.779, 2.092),
    "qnli": (9.092, 5.225, 2.025),
    "qqp": (6.920, 3.676, 1.598),
    "mnli": (6.851, 3.609, 1.565),
}
FIXED = {
    "sst2": (12.227, 7.186, 2.343),
    "qnli": (10.655, 6.434, 2.339),
    "qqp": (9.623, 4.789, 1.920),
    "mnli": (9.716, 4.752, 1.927),
}
ONCE_AN_EPOCH = {
    "sst2": (91.810, 49.622, 15.110),
    "qnli": (91.851, 56.695, 19.357),
    "qqp": (62.651, 48.282, 29.084),
    "mnli": (61.262, 47.370, 29.395),
}
EPOCHS = {"sst2": 90, "qnli": 58, "qqp": 17, "mnli": 16}
CELLS = [(task, column) for task in ROWS for column in range(3)]


@pytest.mark.parametrize(("task", "column"), CELLS)
def test_poisson_replace_one(task, column):
    found = replace_one_poisson(NOISE[task][column], 600 / ROWS[task], STEPS, DELTA, FINE)
    assert found == pytest.approx(REPLACED[task][column], abs=6e-4)


@pytest.mark.parametrize("task", ROWS)
def test_fixed_size_replace_one(task):
    rate = 600 / ROWS[task]
    for noise, value in zip(NOISE[task], FIXED[task], strict=True):
        claimed = Accountant("rdp", DELTA, sampling="fixed").epsilon([(2 * noise, rate, STEPS)])
        assert claimed == pytest.approx(value, abs=1e-3)  # two clips, so twice the noise
    assert without_replacement([(noise, rate, STEPS)], DELTA) == claimed


def test_fixed_size_of_all_rows_is_a_gaussian_of_sensitivity_two():
    ours = Accountant("rdp", DELTA, sampling="fixed").epsilon([(4.0, 1.0, 9)])
    # Renyi of T Gaussians: order * T * (2 / noise)^2 / 2; best order in a fine search
    best = math.inf
    for i in range(1, 20_000):
        order = 1.0 + i / 100
        bound = order * 9 * 0.125 + math.log1p(-1 / order)
        best = min(best, bound - (math.log(DELTA) + math.log(order)) / (order - 1))
    assert best <= ours <= 1.002 * best


@pytest.mark.parametrize("task", ROWS)
def test_shuffled_epochs_have_no_amplification(task):
    rate = 600 / ROWS[task]
    assert uses(rate, STEPS) == EPOCHS[task]
    for noise, value in zip(NOISE[task], ONCE_AN_EPOCH[task], strict=True):
        found = Accountant("pld", DELTA, sampling="shuffled").epsilon([(noise, rate, STEPS)])
        assert found == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize(
    ("noise", "four", "twelve", "poisson"),
    [
        (0.989210, 8.954, 10.581, 13.715),
        (1.513506, 4.973, 5.881, 7.309),
        (3.691572, 1.839, 2.178, 2.559),
    ],
)
def test_tuning(noise, four, twelve, poisson):
    run = ("poisson", ((noise, 600 / 67_349, STEPS),), DELTA)
    for trials, distribution, value in (
        (4.0, "geometric", four),
        (12.0, "geometric", twelve),
        (12.0, "poisson", poisson),
    ):
        assert tuned_epsilon(*run, trials, distribution) == pytest.approx(value, abs=6e-4)


@pytest.mark.parametrize(
    ("noise", "value"), [(0.989210, 26.978), (1.513506, 12.666), (3.691572, 3.942)]
)
def test_twelve_runs_composed(noise, value):
    """A grid of 12, trial by trial."""
    run = [(noise, 600 / 67_349, STEPS)]
    found = epsilon_of_search(Accountant("rdp", DELTA), [run], 12, "fixed")
    assert found == pytest.approx(value, rel=5e-4)
    assert Accountant("rdp", DELTA).epsilon([(noise, 600 / 67_349, 12 * STEPS)]) == found


def test_orders_that_are_left_out_at_small_noise_are_not_told_line_by_line(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("absl"), "propagate", True)
    found = tuned_epsilon("poisson", ((0.477227, 0.048780, 16),), DELTA, 3.0, "geometric")
    assert math.isfinite(found) and not caplog.records


def test_a_search_over_a_row_on_two_clients_is_paid_for_both():
    """14.533 by dp-accounting for noise 0.98920, q = 200 / 22450; one client alone: 10.581."""
    one = (0.98920, 200 / 22_450, STEPS)
    found = epsilon_of_search(Accountant("rdp", DELTA), [[one], [one, one]], 12.0, "geometric")
    assert found == pytest.approx(14.5334, abs=1e-3)


@pytest.mark.parametrize(
    ("noise", "value"),
    [(9.6896, 0.353), (4.8448, 0.751), (1.6149, 2.533), (0.8075, 5.618), (0.4845, 10.394)],
)
def test_true_epsilon_of_the_classical_formula(noise, value):
    assert Accountant("pld", DELTA).epsilon([(noise, 1.0, 1)]) == pytest.approx(value, abs=1.5e-3)
