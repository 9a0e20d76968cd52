"""Every fault once with every tracker: ``scripts/chaos/run.py trackers``, the short version."""

from __future__ import annotations

import pytest

from scripts.chaos import trackers


@pytest.mark.slow
def test_no_fault_of_a_tracker_costs_a_round_or_doubles_one() -> None:
    row = trackers.trackers(len(trackers.FAULTS) * len(trackers.NAMES))
    assert row.good == row.tried, row.text()
