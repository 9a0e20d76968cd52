"""Every fault once with every tracker: ``scripts/chaos.py trackers``, the short version."""

from __future__ import annotations

import chaos_trackers
import pytest


@pytest.mark.slow
def test_no_fault_of_a_tracker_costs_a_round_or_doubles_one() -> None:
    row = chaos_trackers.trackers(len(chaos_trackers.FAULTS) * len(chaos_trackers.NAMES))
    assert row.good == row.tried, row.text()
