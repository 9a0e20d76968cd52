"""The TensorBoard tracker, read back with TensorBoard's own readers."""

from __future__ import annotations

import socket
import time
from dataclasses import replace

import pytest

from ffalora_cli.records.trackers.base import open_tracker
from tests.trackers import SUMMARY, facts, round_record, send, tracking

accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def written(folder, last=3, run_facts=None, **more):
    tracker = open_tracker(tracking("tensorboard", **more))
    send(tracker, run_facts or facts(folder), last)
    return tracker


def read(folder):
    """Points by tag: rounds and values; and the hyper-parameters."""
    from tensorboard.plugins.hparams import plugin_data_pb2 as hparams

    found = accumulators.EventAccumulator(str(folder / "tensorboard")).Reload()
    tags = found.Tags()["scalars"]
    points = {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in tags}
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = hparams.HParamsPluginData.FromString(content).session_start_info
    return points, start


@pytest.mark.parametrize(
    ("unit", "asked", "live"),
    [("text", False, False), ("client", False, False), ("text", True, True), ("none", False, True)],
)
def test_rounds_of_a_private_run_wait_for_its_end(tmp_path, unit, asked, live) -> None:
    """When a round arrives tells how long it took."""
    told = replace(facts(tmp_path, unit=unit), replayed=False)
    told = replace(told, config={**told.config, "tracking": {"private_metrics": asked}})
    tracker = open_tracker(tracking("tensorboard"))
    tracker.start(told)
    tracker.log(round_record(0))
    deadline = time.monotonic() + (20 if live else 0.5)
    while time.monotonic() < deadline and not list(tmp_path.glob("tensorboard/*")):
        time.sleep(0.02)
    assert (tmp_path / "tensorboard").exists() == live
    tracker.log(round_record(1))
    tracker.finish(SUMMARY)
    assert tracker.notes == ()
    assert [n for n, _ in read(tmp_path)[0]["eval/accuracy"]] == [0, 1]


def test_a_private_run_that_stopped_sends_nothing_and_says_so(tmp_path) -> None:
    tracker = open_tracker(tracking("tensorboard"))
    send(tracker, replace(facts(tmp_path), replayed=False), 2, None, exit_code=143)
    assert not (tmp_path / "tensorboard").exists()
    (note,) = tracker.notes
    assert note.startswith("TensorBoard: nothing was sent yet") and "ffalora sync" in note
    send(open_tracker(tracking("tensorboard")), facts(tmp_path), 2, None)  # as sync does
    assert [n for n, _ in read(tmp_path)[0]["eval/accuracy"]] == [0, 1, 2]


def test_what_was_logged_is_read_back(tmp_path, capfd) -> None:
    tracker = written(tmp_path)
    points, start = read(tmp_path)
    assert points["eval/accuracy"] == [(n, 0.5 + n / 16) for n in range(4)]
    assert points["comm/uplink_bytes"] == [(n, 147456.0) for n in range(4)]
    assert start.group_name == "sst2-minilm-label_mix-example_eps6"
    assert start.hparams["federation.local_lr"].number_value == 0.5
    assert start.hparams["method.name"].string_value == "ffa_lora"
    assert tracker.notes == () and capfd.readouterr() == ("", "")


def test_what_is_private_stays_out_of_the_files(tmp_path) -> None:
    written(tmp_path)
    points, _ = read(tmp_path)
    assert set(points) == {"eval/accuracy", "comm/uplink_bytes"}
    for file in (tmp_path / "tensorboard").iterdir():
        content = file.read_bytes()
        for word in (b"train/loss", b"24526", b"someone", socket.gethostname().encode()):
            assert word not in content and word.decode() not in file.name
    other = tmp_path / "other"
    other.mkdir()
    written(other, run_facts=facts(other, unit="none", epsilon_target=None))
    assert "train/loss" in read(other)[0]


def test_resumes_drop_and_double_nothing(tmp_path) -> None:
    for last in range(8):
        written(tmp_path, last)
    assert read(tmp_path)[0]["eval/accuracy"] == [(n, 0.5 + n / 16) for n in range(8)]


@pytest.mark.parametrize("cut", [1, 30, 120])
def test_a_file_cut_by_a_crash_is_gone_on_with(tmp_path, cut) -> None:
    tracker = open_tracker(tracking("tensorboard"))
    send(tracker, facts(tmp_path), 5, None, exit_code=1)
    (file,) = (tmp_path / "tensorboard").iterdir()
    session_end = 80  # bytes at most of what `finish` wrote behind the last round
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - session_end - cut)
    before = [step for step, _ in read(tmp_path)[0]["eval/accuracy"]]
    assert before and max(before) < 6
    written(tmp_path, 6)
    assert read(tmp_path)[0]["eval/accuracy"] == [(n, 0.5 + n / 16) for n in range(7)]


def test_a_full_disk_turns_the_tracker_off_with_one_note(tmp_path, monkeypatch) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    original, calls = RecordWriter.write, []

    def write(self, data):
        calls.append(data)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        return original(self, data)

    monkeypatch.setattr(RecordWriter, "write", write)
    tracker = written(tmp_path)
    assert tracker.notes == (
        "TensorBoard tracker off: [Errno 28] No space left on device; "
        "the local records are complete",
    )
    assert [n for n, _ in read(tmp_path)[0]["eval/accuracy"]] == [0, 1]
