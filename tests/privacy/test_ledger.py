from __future__ import annotations

import json
import os

import numpy as np
import pytest

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.privacy.ledger import PrivacyLedger

NOISE, RATE = np.array([0.9, 1.0, 1.1]), np.array([0.01, 0.02, 1.0])


def test_memory_only():
    ledger = PrivacyLedger(NOISE, RATE)
    ledger.charge(1, [0, 2], 10)
    ledger.charge(2, [2], 5)
    assert ledger.steps_taken.tolist() == [10, 0, 15]
    assert ledger.rounds_taken.tolist() == [1, 0, 2]
    assert ledger.history(2) == [(1.1, 1.0, 15)]


def test_charge_is_on_disk_before_it_returns(tmp_path, monkeypatch):
    path = tmp_path / "privacy_ledger.jsonl"
    ledger = PrivacyLedger(NOISE, RATE, path)
    seen = []
    real = os.fsync

    def watched(handle):
        seen.append((path.read_text().count("\n"), ledger.steps_taken.tolist()))
        real(handle)

    monkeypatch.setattr(os, "fsync", watched)
    ledger.charge(1, [0, 1, 2], 10)
    # flushed once, the line already written, the counts (what a release relies on) not yet moved
    assert seen == [(2, [0, 0, 0])]
    assert ledger.steps_taken.tolist() == [10, 10, 10]


def test_a_failed_write_charges_nothing_in_memory_and_raises(tmp_path, monkeypatch):
    ledger = PrivacyLedger(NOISE, RATE, tmp_path / "privacy_ledger.jsonl")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        ledger.charge(1, [0], 10)
    assert ledger.steps_taken.tolist() == [0, 0, 0]


def test_reopening_reads_everything_back_and_replays_for_free(tmp_path):
    path = tmp_path / "privacy_ledger.jsonl"
    first = PrivacyLedger(NOISE, RATE, path)
    first.charge(1, [0, 1, 2], 10)
    first.charge(2, [1], 10)
    size = path.stat().st_size
    again = PrivacyLedger(NOISE, RATE, path)
    assert again.steps_taken.tolist() == [10, 20, 10]
    again.charge(2, [1], 10)  # resumed before round 2: same keys, same bits
    assert again.steps_taken.tolist() == [10, 20, 10] and path.stat().st_size == size
    again.charge(2, [0, 1], 10)  # client 0 was not charged for round 2
    again.charge(2, [1], 7)  # other steps are another release
    again.charge(3, [2], 10)
    assert again.steps_taken.tolist() == [20, 27, 20]
    assert PrivacyLedger(NOISE, RATE, path).steps_taken.tolist() == [20, 27, 20]


def test_a_replay_sees_the_steps_it_saw_the_first_time(tmp_path):
    path = tmp_path / "privacy_ledger.jsonl"
    first, seen = PrivacyLedger(NOISE, RATE, path), []
    for round, clients in ((1, [0, 1]), (2, [1]), (3, [1, 2])):
        seen.append(first.steps_before(round).tolist())
        assert seen[-1] == first.steps_taken.tolist()
        first.charge(round, clients, 10)
    again = PrivacyLedger(NOISE, RATE, path)
    assert [again.steps_before(round).tolist() for round in (1, 2, 3)] == seen
    assert again.steps_before(4).tolist() == again.steps_taken.tolist() == [10, 30, 10]
    again.charge(4, [0], 10)
    assert again.steps_before(5).tolist() == [20, 30, 10]


def test_the_same_round_twice_in_one_session_is_charged_twice(tmp_path):
    ledger = PrivacyLedger(NOISE, RATE, tmp_path / "privacy_ledger.jsonl")
    ledger.charge(1, [0], 10)
    ledger.charge(1, [0], 10)
    assert ledger.steps_taken[0] == 20


@pytest.mark.parametrize("cut", range(1, 30, 4))
def test_half_a_last_line_is_dropped(tmp_path, cut):
    path = tmp_path / "privacy_ledger.jsonl"
    ledger = PrivacyLedger(NOISE, RATE, path)
    ledger.charge(1, [0, 1], 10)
    ledger.charge(2, [0, 1], 10)
    path.write_bytes(path.read_bytes()[:-cut])
    again = PrivacyLedger(NOISE, RATE, path)
    assert again.steps_taken.tolist() == [10, 10, 0]
    again.charge(2, [0, 1], 10)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row.get("round") for row in rows] == [None, 1, 2]
    assert PrivacyLedger(NOISE, RATE, path).steps_taken.tolist() == [20, 20, 0]


def test_half_a_header_starts_over(tmp_path):
    path = tmp_path / "privacy_ledger.jsonl"
    path.write_bytes(b'{"schema":1,"noi')
    PrivacyLedger(NOISE, RATE, path).charge(1, [0], 3)
    assert PrivacyLedger(NOISE, RATE, path).steps_taken.tolist() == [3, 0, 0]


@pytest.mark.parametrize(
    "line", [b"x", b"[]", b'{"round":1,"steps":10,"clients":[7]}', b'{"round":1,"clients":[0]}']
)
def test_damage_before_the_end_is_refused(tmp_path, line):
    path = tmp_path / "privacy_ledger.jsonl"
    PrivacyLedger(NOISE, RATE, path).charge(1, [0], 10)
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(ConfigError, match="line 3 is damaged"):
        PrivacyLedger(NOISE, RATE, path)


def test_another_plan_is_refused(tmp_path):
    path = tmp_path / "privacy_ledger.jsonl"
    PrivacyLedger(NOISE, RATE, path)
    with pytest.raises(ConfigError, match="another plan"):
        PrivacyLedger(NOISE * 0.95, RATE, path)


def test_unknown_clients_are_not_written(tmp_path):
    path = tmp_path / "privacy_ledger.jsonl"
    ledger = PrivacyLedger(NOISE, RATE, path)
    size = path.stat().st_size
    for ids in ([3], [-1]):
        with pytest.raises(IndexError):
            ledger.charge(1, ids, 1)
    assert path.stat().st_size == size and ledger.steps_taken.sum() == 0
