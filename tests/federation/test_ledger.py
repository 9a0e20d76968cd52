import json

import numpy as np
import pytest

from ffalora_cli.federation.wire.ledger import CommunicationLedger


@pytest.fixture
def ledger():
    ledger = CommunicationLedger(4)
    ledger.add(1, "downlink", np.array([0, 2]), {"framing": 3, "seed": 16})
    ledger.add(1, "uplink", np.array([0, 2]), {"framing": 5, "adapter": 100, "head": 40})
    ledger.add(2, "downlink", np.arange(4), {"framing": 7, "adapter": 100, "merge": 60})
    ledger.add(2, "uplink", np.array([3]), {"framing": 5, "adapter": 50, "index": 2})
    return ledger


def test_round_totals_add_up_over_clients(ledger):
    metrics = ledger.round_totals(1)
    assert metrics["comm/downlink_bytes"] == 2 * 19
    assert metrics["comm/uplink_bytes"] == 2 * 145  # the whole payload, framing and head too
    assert metrics["comm/setup_bytes"] == 2 * 16
    assert metrics["comm/head_bytes"] == 2 * 40
    assert metrics["comm/framing_bytes"] == 2 * 8
    assert metrics["comm/merge_bytes"] == 0


def test_running_totals_stop_at_the_round_asked_for(ledger):
    first, second = ledger.round_totals(1), ledger.round_totals(2)
    for key, value in first.items():
        if not key.endswith("_total"):
            assert first[f"{key}_total"] == value
            assert second[f"{key}_total"] == value + second[key]
    assert second["comm/downlink_bytes_total"] == 2 * 19 + 4 * 167
    assert ledger.round_totals(9)["comm/uplink_bytes"] == 0


def test_breakdown_accounts_for_every_byte(ledger):
    for round in (1, 2):
        metrics = ledger.round_totals(round)
        parts = ("adapter", "head", "merge", "index", "setup", "framing")
        for suffix in ("", "_total"):
            whole = metrics[f"comm/uplink_bytes{suffix}"] + metrics[f"comm/downlink_bytes{suffix}"]
            assert whole == sum(metrics[f"comm/{part}_bytes{suffix}"] for part in parts)


def test_per_client_sums_equal_the_totals(ledger):
    sizes = ledger.per_client()
    assert sizes["uplink"].tolist() == [145, 0, 145, 57]
    assert sizes["downlink"].tolist() == [186, 167, 186, 167]
    assert sizes["uplink"].sum() == ledger.total("uplink")
    assert ledger.total() == sizes["uplink"].sum() + sizes["downlink"].sum()
    sizes["uplink"][:] = 0
    assert ledger.per_client()["uplink"].sum() == 347  # a copy was handed out


def test_rows_restore_the_ledger_through_json(ledger):
    rows = json.loads(json.dumps(ledger.rows()))
    assert rows[2]["clients"] is None  # everybody
    assert rows[0]["clients"] == [0, 2]
    restored = CommunicationLedger.restore(4, rows)
    assert restored.round_totals(2) == ledger.round_totals(2)
    assert restored.rows() == ledger.rows()
    for direction, sizes in ledger.per_client().items():
        assert np.array_equal(restored.per_client()[direction], sizes)
    assert ledger.rows(2) == ledger.rows()[2:]


def test_empty_cohort_is_no_row(ledger):
    before = len(ledger.rows())
    ledger.add(3, "uplink", np.array([], dtype=np.int64), {"framing": 5})
    assert len(ledger.rows()) == before


def test_a_client_twice_is_refused(ledger):
    with pytest.raises(ValueError, match="twice"):
        ledger.add(3, "uplink", np.array([1, 1]), {"framing": 5})


def test_many_clients_are_one_row():
    ledger = CommunicationLedger(100_000)
    for round in range(1, 51):
        ledger.add(round, "uplink", np.arange(100_000), {"adapter": 4, "framing": 1})
    assert len(ledger.rows()) == 50
    assert ledger.total() == 50 * 100_000 * 5
