"""An epsilon as text never understates it, and is the shortest that does not."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffalora_cli.privacy.rounding import delta_text, epsilon_text, rounded_up


@given(st.floats(0.0, 1e6))
def test_never_below_and_within_a_hundredth(value):
    shown = float(epsilon_text(value))
    assert value - 1e-9 <= shown < value + 0.01 + 1e-9
    assert rounded_up(value) == shown
    assert value - 1e-9 <= float(epsilon_text(value, 4)) < value + 1e-4 + 1e-9


@pytest.mark.parametrize(
    ("value", "text"),
    [(5.991, "6.00"), (6.0, "6.00"), (6.001, "6.01"), (0.001, "0.01"), (math.inf, "inf"),
     ("inf", "inf"), (None, "-"), (math.nan, "-"), (0.07, "0.07"), (12, "12.00")],
)  # fmt: skip
def test_examples(value, text):
    assert epsilon_text(value) == text


def test_a_delta_is_short():
    assert [delta_text(d) for d in (1e-5, 2.5e-6, 1e-10, 0.001)] == [
        "1e-5",
        "2.5e-6",
        "1e-10",
        "0.001",
    ]
