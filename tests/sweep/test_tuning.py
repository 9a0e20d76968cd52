"""What is tried next, and which setting is best, against plain loops and a toy with an optimum."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from ffalora_cli.sweep.tuning import Cell, around, at_edge, best, best_for_all, next_settings


def toy(setting):
    """Best, 0, at a rate of 2 and a clip of 0.5; diverges at rates above 30."""
    rate, clip = map(float, setting)
    return None if rate > 30 else -(math.log(rate / 2) ** 2) - math.log(clip / 0.5) ** 2


def worth_of(*axes, of=toy):
    return {setting: of(setting) for setting in itertools.product(*axes)}


def test_values_about_a_recommended_one():
    assert around("federation.local_lr", 8.0) == ("2.53", "8.0", "25.3")
    assert around("privacy.max_grad_norm", 0.5) == ("0.25", "0.5", "1.0")


def test_the_best_is_the_argmax_and_of_two_alike_the_smaller():
    draw = random.Random(0)
    for _ in range(200):
        settings = list(itertools.product(("0.5", "10", "2"), ("0.1", "0.9")))
        draw.shuffle(settings)
        worth = {one: draw.choice((None, 0.25, 0.5, 0.75)) for one in settings}
        for higher in (True, False):
            known = [value for value in worth.values() if value is not None]
            if not known:
                assert best(worth, higher) is None
                continue
            top = max(known) if higher else min(known)
            alike = [one for one, value in worth.items() if value == top]
            smallest = min(alike, key=lambda one: (float(one[0]), float(one[1])))
            assert best(worth, higher) == smallest


def test_one_setting_for_all_is_the_best_mean_among_those_that_succeeded_everywhere():
    lora = {("1",): 0.9, ("2",): 0.7, ("4",): None}
    ffa = {("1",): 0.2, ("2",): 0.6, ("4",): 0.9, ("8",): 1.0}
    assert best_for_all([lora, ffa], higher=True) == (("2",), (0.7, 0.6))
    assert best_for_all([lora, ffa], higher=False) == (("1",), (0.9, 0.2))
    assert best_for_all([{("1",): 0.9}, {("2",): 0.6}], higher=True) is None


@pytest.mark.parametrize(
    ("worth", "wanted"),
    [
        ({("1",): 1, ("2",): 2, ("4",): 3}, ("8.0",)),  # at an edge: outward, by the same factor
        ({("1",): 3, ("2",): 2, ("4",): 1}, ("0.5",)),
        ({("1",): 2, ("2",): 3, ("8",): 1}, ("4.0",)),  # inside: in the wider gap
        ({("1",): 2, ("2",): 3, ("4",): 1}, ("1.41",)),  # of two alike at the better neighbour
        ({("1",): 2, ("2",): 3, ("4",): None}, ("1.41",)),  # what failed is the worse one
        ({("0",): 1, ("0.1",): 3, ("0.9",): 2}, ("0.3",)),
        ({("0",): 3, ("0.5",): 2}, ("0.25",)),  # there is nothing below 0 by a factor
        ({("constant",): 1, ("cosine",): 2}, None),
    ],
)
def test_the_next_value(worth, wanted):
    ideas = next_settings(worth, higher=True)
    assert (ideas[0][0] if ideas else None) == wanted


def test_whole_numbers_stay_whole():
    assert next_settings({("5",): 1, ("10",): 2}, True, whole=[0]) == [[("20",), ("7",)]]
    assert next_settings({("1",): 1, ("2",): 2, ("3",): 1}, True, whole=[0]) == []


def test_where_the_best_lies_inside_or_at_an_edge():
    worth = worth_of(("1", "2", "8"), ("0.1", "0.5"))
    assert best(worth, True) == ("2", "0.5")
    assert at_edge(worth, ("2", "0.5")) == [1]
    assert next_settings(worth, True)[1][0] == ("2", "2.5")
    # A value that failed bounds what was tried as well as a worse one.
    assert at_edge({("8",): 1.0, ("16",): 2.0, ("32",): None}, ("16",)) == []


@pytest.mark.parametrize("start", [(0.01, 0.1), (20.0, 3.0)])
def test_steps_about_the_best_find_an_optimum_that_was_not_typed(start):
    cell = Cell(
        (),
        {
            "federation.local_lr": around("", start[0]),
            "privacy.max_grad_norm": around("", start[1]),
        },
    )
    cell.worth.update({one: toy(one) for one in cell.grid})
    assert len(cell.grid) == 9
    for _ in range(12):
        for ideas in next_settings(cell.worth, True):
            cell.worth[ideas[0]] = toy(ideas[0])
    rate, clip = map(float, best(cell.worth, True))
    assert abs(math.log(rate / 2)) < 0.1 and abs(math.log(clip / 0.5)) < 0.4
