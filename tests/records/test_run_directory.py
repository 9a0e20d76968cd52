"""The run folder: which one, what survives a crash, and that what is read is what was written."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors import safe_open

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.records import files
from ffalora_cli.records.reading import find_run, find_runs, read_communication, read_run
from ffalora_cli.records.run_directory import ROUNDS, open_run, round_lines
from ffalora_cli.records.summary import best_round, summarize
from ffalora_cli.types import RoundRecord

MANIFEST = {"schema_version": 1, "id": "demo-abc"}


def record(round, value, **more):
    return RoundRecord(round, {"eval/accuracy": value, **more}, ({"client": 0, "rows": 12},))


def written(runs, name="demo", signature="abc", rounds=3, finish=True, again=False):
    run = open_run(runs, name, signature, again).claim()
    run.write_manifest({**MANIFEST, "id": run.id})
    run.write_config({"seed": 1, "adapter": {"targets": ("query", "value")}})
    for number in range(rounds):
        run.append(round_lines(record(number, number / 10)))
    if finish:
        records = [record(number, number / 10) for number in range(rounds)]
        run.write_summary(summarize(records, "eval/accuracy", 1.5))
    else:
        run.close()
    return run


def test_opening_writes_nothing(tmp_path):
    run = open_run(tmp_path / "runs", "demo", "abc")
    assert run.path == tmp_path / "runs" / "demo-abc"
    assert not run.finished and not run.begun
    assert list(tmp_path.iterdir()) == []


def test_a_claimed_folder_that_nothing_was_written_to_goes(tmp_path):
    """What is refused between the claim and the first record leaves nothing."""
    run = open_run(tmp_path, "demo", "abc")
    with pytest.raises(ConfigError), run.claim():
        raise ConfigError("refused")
    assert list(tmp_path.iterdir()) == []


def test_round_trip(tmp_path):
    run = written(tmp_path)
    back = read_run(run.path)
    assert back.finished and not back.cut_short
    assert back.manifest == {**MANIFEST, "id": "demo-abc"}
    assert back.config == {"seed": 1, "adapter": {"targets": ["query", "value"]}}
    assert back.rounds == tuple(record(number, number / 10) for number in range(3))
    assert back.series("eval/accuracy") == ([0, 1, 2], [0.0, 0.1, 0.2])
    assert back.summary["value"] == 0.2 and back.summary["final"] == {"eval/accuracy": 0.2}
    assert back.privacy is None
    assert {p.name for p in run.path.iterdir()} == {
        "manifest.json",
        "config.yaml",
        "rounds.jsonl",
        "summary.json",
    }


def test_floats_come_back_to_the_bit_and_the_rest_as_null(tmp_path):
    run = open_run(tmp_path, "n", "s").claim()
    run.write_manifest(MANIFEST)
    run.write_config({})
    metrics = {
        "a": 0.1 + 0.2,
        "b": 5e-324,
        "c": float("nan"),
        "d": float("inf"),
        "e": np.float32(2),
    }
    clients = ({"epsilon": np.float64(6), "n": np.int64(3)},)
    run.append(round_lines(RoundRecord(1, metrics, clients)))
    line = json.loads((run.path / ROUNDS).read_text(), parse_constant=pytest.fail)
    assert line["schema_version"] == 1
    assert line["metrics"] == {"a": 0.1 + 0.2, "b": 5e-324, "c": None, "d": None, "e": 2.0}
    back = read_run(run.path).rounds[0]
    assert math.isnan(back.metrics["c"]) and back.clients == ({"epsilon": 6.0, "n": 3},)


def test_an_object_is_refused_rather_than_written_as_text():
    with pytest.raises(TypeError, match="Tensor"):
        files.to_json({"weights": torch.zeros(2)})
    assert files.to_json({"loss": torch.tensor(0.5)}) == b'{"loss": 0.5}\n'


def test_finished_is_found_and_again_takes_fresh_folders(tmp_path):
    written(tmp_path)
    assert open_run(tmp_path, "demo", "abc").finished
    assert written(tmp_path, again=True).path.name == "demo-abc-2"
    assert open_run(tmp_path, "demo", "abc", again=True).path.name == "demo-abc-3"
    assert open_run(tmp_path, "demo", "abc").path.name == "demo-abc"
    assert [path.name for path in find_runs(tmp_path)] == ["demo-abc", "demo-abc-2"]


def test_what_a_crash_left_is_gone_on_with(tmp_path):
    written(tmp_path, rounds=2, finish=False)
    run = open_run(tmp_path, "demo", "abc")
    assert run.begun and not run.finished
    (run.path / ".summary.json.x1y2z3").write_text("half a summary")
    with run.claim():
        run.append(round_lines(record(2, 0.2)))
    assert [r.round for r in read_run(run.path).rounds] == [0, 1, 2]
    assert {p.name for p in run.path.iterdir()} == {"manifest.json", "config.yaml", ROUNDS}
    assert open_run(tmp_path, "demo", "abc", again=True).path.name == "demo-abc-2"


WRITER = """
import sys, time
from ffalora_cli.records.run_directory import open_run, round_lines
from ffalora_cli.types import RoundRecord
run = open_run(sys.argv[1], "demo", "abc").claim()
run.write_manifest({"schema_version": 1}); run.write_config({})
for number in range(10**6):
    run.append(round_lines(RoundRecord(number, {"eval/accuracy": number / 7})))
    print(number, flush=True)
"""


def test_a_killed_writer_leaves_every_round_it_reported_and_frees_the_folder(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while int(process.stdout.readline()) < 20:
            time.sleep(0)
        with pytest.raises(
            ConfigError, match=rf"another process is writing this run \(pid {process.pid} on "
        ):
            open_run(tmp_path, "demo", "abc")
        os.kill(process.pid, signal.SIGKILL)
        reported = 20 + sum(1 for _ in process.stdout)
    back = read_run(tmp_path / "demo-abc")
    numbers = [r.round for r in back.rounds]
    assert numbers == list(range(len(numbers))) and len(numbers) >= reported + 1
    assert open_run(tmp_path, "demo", "abc").begun
    with open_run(tmp_path, "demo", "abc").claim() as again:
        assert (
            again.note
            == f"took over the lock of pid {process.pid} on {socket.gethostname()}, which is gone"
        )
    assert open_run(tmp_path, "demo", "abc").claim().note is None


def test_half_a_last_line_is_left_out_at_every_cut(tmp_path):
    run = written(tmp_path, finish=False)
    whole = (run.path / ROUNDS).read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        (run.path / ROUNDS).write_bytes(whole[:cut])
        back = read_run(run.path)
        assert len(back.rounds) == sum(end <= cut for end in ends)
        assert back.cut_short == (cut not in (0, *ends))


def test_damage_elsewhere_is_one_line_naming_file_and_line(tmp_path):
    run = written(tmp_path)
    lines = (run.path / ROUNDS).read_bytes().split(b"\n")
    (run.path / ROUNDS).write_bytes(b"\n".join([lines[0], lines[1][:-9], *lines[2:]]))
    with pytest.raises(ConfigError, match=r"rounds\.jsonl: line 2 is damaged") as caught:
        read_run(run.path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("manifest.json", "[]"),
        ("manifest.json", '{"schema_version": 99}'),
        ("manifest.json", "[" * 100_000),
        ("config.yaml", "a: [1"),
        ("config.yaml", "just text"),
        ("config.yaml", "a: !!python/object/apply:os.getcwd []"),
        ("summary.json", '{"value": '),
        ("rounds.jsonl", '{"schema_version": 1, "round": 1}\n'),
        ("rounds.jsonl", '{"schema_version": 1, "round": 1, "metrics": {"a": "b"}}\n'),
    ],
)
def test_damaged_files_end_in_one_line_that_names_them(tmp_path, file, content):
    run = written(tmp_path)
    (run.path / file).write_text(content)
    with pytest.raises(ConfigError, match=file) as caught:
        read_run(run.path)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match="is this a run"):
        read_run(tmp_path)


@pytest.mark.parametrize("name", ["", "a/b", "../x", "ä", "a b", "a\n", "x" * 81])
def test_names_that_do_not_fit_a_folder_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="is not a folder name"):
        open_run(tmp_path, name, "abc")
    with pytest.raises(ConfigError, match="is not a folder name"):
        open_run(tmp_path, "abc", name)


def test_too_long_together_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="too long"):
        open_run(tmp_path, "x" * 80, "y" * 80)


def test_a_link_out_of_the_runs_folder_is_refused(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs" / "demo-abc").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="is a link"):
        open_run(tmp_path / "runs", "demo", "abc")


def test_a_runs_folder_that_cannot_be_made_names_the_key(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ConfigError, match=r"paths\.runs: .*cannot be made"):
        open_run(tmp_path / "runs", "demo", "abc").claim()


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    files.write_whole(tmp_path / "a.json", b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_whole(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_communication_rows(tmp_path):
    run = written(tmp_path, finish=False)
    rows = [{"round": 1, "client": 0, "direction": "uplink", "kind": "adapter", "bytes": 147_456}]
    for more in (rows, [], rows):
        run.append(round_lines(record(1, 0.5), more))
    assert read_communication(run.path) == [{"schema_version": 1, **rows[0]}] * 2


def test_adapter_keeps_views_and_says_what_it_is(tmp_path):
    run = open_run(tmp_path, "demo", "abc").claim()
    stack = torch.arange(24.0).reshape(2, 12)
    tensors = {"q.lora_b": stack[1, :8].view(4, 2), "q.lora_a": stack[1, 8:].view(2, 2).T}
    run.write_adapter(tensors, rank=2, alpha=4.0, base_model="some/model", extra={"method": "lora"})
    with safe_open(run.path / "adapter.safetensors", framework="pt") as stored:
        assert stored.metadata() == {
            "schema_version": "1",
            "format": "pt",
            "names": "q.lora_a q.lora_b",
            "rank": "2",
            "alpha": "4.0",
            "base_model": "some/model",
            "method": "lora",
        }
        for name, value in tensors.items():
            assert torch.equal(stored.get_tensor(name), value)


def test_find_run_by_path_name_beginning_and_nearest(tmp_path):
    written(tmp_path, "sst2", "aaa")
    written(tmp_path, "qnli", "bbb")
    written(tmp_path, "qnli", "ccc")
    assert find_run(tmp_path, str(tmp_path / "sst2-aaa")) == tmp_path / "sst2-aaa"
    assert find_run(tmp_path, "sst2-aaa") == find_run(tmp_path, "ss") == tmp_path / "sst2-aaa"
    with pytest.raises(
        ConfigError, match="'qnli' matches 2 runs, newest first: qnli-ccc, qnli-bbb"
    ):
        find_run(tmp_path, "qnli")
    told: list[str] = []
    assert find_run(tmp_path, "qnli", told.append) == tmp_path / "qnli-ccc"
    assert told == ["'qnli' matches 2 runs; this is the newest, qnli-ccc"]
    written(tmp_path, "sst2-lora-s1", "0a0a0a0a0a0a")
    written(tmp_path, "sst2-lora-s10", "0b0b0b0b0b0b")
    assert find_run(tmp_path, "sst2-lora-s1").name == "sst2-lora-s1-0a0a0a0a0a0a"  # a whole name
    signed = written(tmp_path, "qnli", "0123456789ab").path
    assert find_run(tmp_path, "0123") == signed
    with pytest.raises(ConfigError, match="was not found"):
        find_run(tmp_path, "012")
    with pytest.raises(ConfigError, match="did you mean 'sst2-aaa'"):
        find_run(tmp_path, "sts2-aaa")
    with pytest.raises(ConfigError, match=r"paths\.runs"):
        find_run(tmp_path / "nowhere", "x")


def test_summary_reports_the_last_value_and_calls_the_best_by_name():
    records = [
        record(0, 0.5),
        record(1, 0.8, **{"comm/x": 3.0}),
        record(2, float("nan")),
        record(3, 0.8),
    ]
    records.append(RoundRecord(4, {"comm/x": 9.0}))
    summary = summarize(records, "eval/accuracy", 2.0, {"notes": ["a"]})
    assert summary["value"] == 0.8 and summary["rounds"] == 4 and summary["notes"] == ["a"]
    assert summary["final"] == {"eval/accuracy": 0.8, "comm/x": 9.0}
    assert summary["best"] == {"round": 1, "value": 0.8}  # the first of equals
    assert summary["initial"] == {"eval/accuracy": 0.5}
    assert best_round([record(1, float("nan"))], "eval/accuracy") is None
    with pytest.raises(ValueError, match="'final'"):
        summarize(records, "eval/accuracy", 1.0, {"final": {}})
    with pytest.raises(ValueError, match="no round"):
        summarize([], "eval/accuracy", 1.0)
