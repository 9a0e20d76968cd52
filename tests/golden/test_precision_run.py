"""A whole private run with bf16 frozen weights ends where fp32 ends, within noise."""

from __future__ import annotations

import math

import pytest

from tests.golden.test_experiments import run


@pytest.mark.slow
def test_bf16_ends_at_the_accuracy_of_fp32(tmp_path):
    """Quickstart (BBC News, MiniLM, epsilon 6 a client), seed 0: three standard errors apart."""
    found = {}
    for precision in ("fp32", "bf16"):
        summary, seen = run(
            "experiment=quickstart", f"engine.precision={precision}", f"paths.runs={tmp_path}"
        )
        found[precision] = summary["final"]["eval/accuracy"]
        assert seen.records[0].metrics["eval/accuracy"] < 0.5
    rows = 222  # of the evaluation split
    error = math.sqrt(2 * found["fp32"] * (1 - found["fp32"]) / rows)
    assert found["fp32"] > 0.7
    assert abs(found["bf16"] - found["fp32"]) < 3 * error, found
