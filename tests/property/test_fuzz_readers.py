"""Damaged input for every reader: a value or its documented error, in time, nothing touched."""

from __future__ import annotations

import random

import pytest

from scripts.chaos import fuzz
from scripts.chaos.watch import outcome

COUNT = {"overrides": 100, "yaml": 50, "records": 50}  # ten to twenty milliseconds each


@pytest.fixture(scope="module")
def sandbox():
    with fuzz.sandbox() as made:
        yield made


@pytest.mark.parametrize(
    "reader", ["overrides", "yaml", "payload", "checkpoint", "records", "rows"]
)
@pytest.mark.parametrize("third", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_a_reader_reads_or_refuses(reader, third, sandbox) -> None:
    cases, watch = sandbox
    case, allowed = cases[reader]
    for number in range(third, COUNT.get(reader, 300), 3):
        said = outcome(case(random.Random(f"test {number}")), watch, allowed)
        assert said in ("read", "refused"), (number, said)


@pytest.mark.parametrize(
    ("reader", "seed"),
    [("yaml", "7 2661"), ("yaml", "7 7411"), ("rows", "7 1639"), ("overrides", "3 1230")],
)
def test_what_the_long_fuzzing_found_stays_found(reader, seed, sandbox) -> None:
    cases, watch = sandbox
    case, allowed = cases[reader]
    assert outcome(case(random.Random(seed)), watch, allowed) == "refused"


def test_another_exception_and_a_hang_are_seen(sandbox) -> None:
    _, watch = sandbox

    def spin() -> None:
        while True:
            pass

    assert outcome(lambda: {}["x"], watch, (ValueError,)).startswith("KeyError")
    assert outcome(spin, watch, (Exception,), 0.1).startswith("HangError")
