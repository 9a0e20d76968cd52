"""Every fault once with every tracker: ``scripts/chaos.py trackers``, the short version."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.slow
def test_no_fault_of_a_tracker_costs_a_round_or_doubles_one(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    sys.modules.pop("chaos_trackers", None)
    import chaos_trackers

    row = chaos_trackers.trackers(len(chaos_trackers.FAULTS) * len(chaos_trackers.NAMES))
    assert row.good == row.tried, row.text()
