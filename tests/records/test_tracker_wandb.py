"""The W&B tracker, for real and offline: what it logged is read back from its own file.

And what happens when it fails: a note, no exception, no waiting beyond the limits.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from ffalora_cli.config.build import is_known
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import TrackingConfig
from ffalora_cli.metric_keys import EPSILON, UPLINK_TOTAL
from ffalora_cli.records.trackers import worker
from ffalora_cli.records.trackers.base import TRACKERS, RunFacts, open_tracker
from ffalora_cli.records.trackers.wandb_file import entries
from ffalora_cli.types import RoundRecord

CONFIG = {
    "task": {"name": "sst2"},
    "model": {"name": "minilm"},
    "partition": {"name": "label_mix"},
    "method": {"name": "ffa_lora"},
    "privacy": {"unit": "example", "epsilon_target": 6.0, "noise_multiplier": None},
    "federation": {"rounds": 3},
    "paths": {"runs": "/home/someone/runs"},
}
RECORDS = [
    RoundRecord(
        number,
        {
            "eval/accuracy": 0.5 + number / 10,
            "comm/uplink_bytes": 147456.0,
            "train/loss": 0.123,
            "time/samples_per_second": 77.0,
            "engine/padding_share": 0.1,
        },
        ({"client": 0, "rows": 24526},),
    )
    for number in (0, 1, 3)
]
SUMMARY = {
    "schema_version": 1,
    "status": "finished",
    "headline": "eval/accuracy",
    "value": 0.8,
    "final": {"eval/accuracy": 0.8, "train/loss": 0.123},
    "best": {"round": 3, "value": 0.8},
    "clients": [{"rows": 24526}],
}


def tracking(name="wandb", mode="offline", group=None):
    return TrackingConfig(
        name=name, project="demo-project", entity=None, mode=mode, group=group, tags=("mine",)
    )


def facts(folder, **privacy):
    config = {**CONFIG, "privacy": {**CONFIG["privacy"], **privacy}}
    return RunFacts("demo-abc", "demo", folder, config, replayed=True)


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_DIR", raising=False)
    for kind in ("CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
        (tmp_path / kind).mkdir()
        monkeypatch.setenv(f"WANDB_{kind}", str(tmp_path / kind))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


def key_of(item):
    return item.key or "/".join(item.nested_key)


def tracked(tracker, run_facts):
    tracker.start(run_facts)
    for record in RECORDS:
        tracker.log(record)
    tracker.finish(SUMMARY)


def run_offline(folder, config, run_facts):
    tracker = open_tracker(config)
    tracked(tracker, run_facts)
    return tracker, *read_back(folder)


def read_back(folder):
    """All records of the one run below a folder, by type."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 10
    while True:  # wandb's own process may still be writing when `finish` returns offline
        found = defaultdict(list)
        for entry in entries(file):
            kind = entry.WhichOneof("record_type")
            found[kind].append(getattr(entry, kind))
        if found["exit"] or time.monotonic() > deadline:
            return found, file
        time.sleep(0.02)


def history(found):
    rows = [{key_of(i): json.loads(i.value_json) for i in row.item} for row in found["history"]]
    return [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows]


def summary_of(found):
    values = {}
    for change in found["summary"]:
        values.update({key_of(item): json.loads(item.value_json) for item in change.update})
    return values


def test_what_was_logged_is_in_the_file(tmp_path, capfd):
    tracker, found, file = run_offline(tmp_path, tracking(), facts(tmp_path))
    (run,) = found["run"][:1]
    assert (run.run_id, run.display_name, run.project) == ("demo-abc", "demo", "demo-project")
    assert run.run_group == "sst2-minilm-label_mix-example_eps6"
    assert set(run.tags) == {"ffa_lora", "sst2", "example_eps6", "mine"}
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["federation"] == {"rounds": 3}
    assert config["privacy"] == {"unit": "example", "epsilon_target": 6.0}  # no null: no column
    assert history(found) == [
        {"round": r.round, "eval/accuracy": r.metrics["eval/accuracy"], "comm/uplink_bytes": 147456}
        for r in RECORDS
    ]
    axes = {m.glob_name or m.name: m.step_metric for m in found["metric"]}
    assert axes["*"] == "round"
    values = summary_of(found)
    assert values["status"] == "finished"
    assert values["best/eval/accuracy"] == values["eval/accuracy"] == 0.8
    assert not {"value", "best/value", "schema_version"} & values.keys()  # say nothing as columns
    assert tracker.notes == (f"W&B was offline; upload with: wandb sync {file.parent}",)
    assert tracker.url is None
    assert capfd.readouterr() == ("", "")  # only cli speaks to the user


def test_private_metrics_and_client_details_stay_at_home(tmp_path):
    _, found, file = run_offline(tmp_path, tracking(), facts(tmp_path))
    content = file.read_bytes()
    for private in (b"train/loss", b"samples_per_", b"padding", b"24526", b"/home/someone"):
        assert private not in content
    assert "train/loss" not in summary_of(found)


def test_nothing_of_the_machine_is_in_the_file(tmp_path):
    _, found, file = run_offline(tmp_path, tracking(), facts(tmp_path))
    assert "environment" not in found and "stats" not in found  # host, paths, command; load
    assert found["run"][0].host == "" and not found["run"][0].git.remote_url
    content = file.read_bytes()
    for path in (str(tmp_path), os.getcwd(), sys.executable, sys.argv[0]):
        assert path.encode() not in content


def test_wandb_itself_reads_the_same_from_the_file(tmp_path):
    _, found, file = run_offline(tmp_path, tracking(), facts(tmp_path))
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    lines = [json.loads(line) for line in said.stdout.splitlines()]
    rows = [line["history"]["item"] for line in lines if line["type"] == "history"]
    assert [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows] == history(
        found
    )
    assert [row["_step"] for row in rows] == [r.round for r in RECORDS]  # a round is a step
    (config,) = [line["run"]["config"]["update"] for line in lines if line["type"] == "run"][:1]
    assert config["privacy"]["epsilon_target"] == 6 and "paths" not in config
    summary = {}
    for line in lines:
        summary |= line["summary"]["update"] if line["type"] == "summary" else {}
    assert summary["best/eval/accuracy"] == 0.8 and summary["round"] == 3
    page = (Path(__file__).parents[2] / "docs/tracking.md").read_text()
    steps = page[page.index("## Comparing methods") : page.index("## What was tried")]
    named = set(re.findall(r"`((?:eval|best|comm|privacy)/[\w/]+)`", steps))
    assert len(named) == 4 and named <= {UPLINK_TOTAL, EPSILON, *summary}
    for key in re.findall(r"`((?:method|task|model|partition|privacy)\.\w+)`", steps):
        assert is_known(key) and key.split(".")[0] in config, key


def test_without_privacy_everything_is_sent(tmp_path):
    none = facts(tmp_path, unit="none", epsilon_target=None)
    _, found, _ = run_offline(tmp_path, tracking(group="my-group"), none)
    assert found["run"][0].run_group == "my-group"
    assert "no_privacy" in found["run"][0].tags
    assert all(row["train/loss"] == 0.123 for row in history(found))
    assert summary_of(found)["train/loss"] == 0.123


@pytest.mark.parametrize(
    ("privacy", "label"),
    [
        ({"unit": "none", "epsilon_target": None}, "no_privacy"),
        ({"epsilon_target": 0.5}, "example_eps0.5"),
        ({"unit": "client", "noise_multiplier": 1.0, "epsilon_target": None}, "client_noise1"),
    ],
)
def test_privacy_label(tmp_path, privacy, label):
    assert facts(tmp_path, **privacy).privacy_label == label


def test_a_failing_init_leaves_one_note(tmp_path, monkeypatch):
    import wandb

    def refuse(**_):
        raise wandb.errors.CommError("no such\nserver")

    monkeypatch.setattr(wandb, "init", refuse)
    tracker = open_tracker(tracking())
    tracked(tracker, facts(tmp_path))
    tracker.log(RECORDS[0])
    assert tracker.notes == ("W&B tracker off: no such; the local records are complete",)


def test_a_failure_in_the_middle_keeps_what_went_before(tmp_path, monkeypatch):
    import wandb

    original, calls = wandb.Run.log, []

    def fail_later(run, data, *rest, **more):
        calls.append(data)
        if len(calls) == 3:
            raise SystemExit(1)
        return original(run, data, *rest, **more)

    monkeypatch.setattr(wandb.Run, "log", fail_later)
    tracker = open_tracker(tracking())
    tracked(tracker, facts(tmp_path))
    assert [note.split(":")[0] for note in tracker.notes] == ["W&B tracker off"]
    wandb.teardown()  # as at the end of the process
    assert [row["round"] for row in history(read_back(tmp_path)[0])] == [0, 1]


def test_two_jobs_of_one_process_do_not_mix(tmp_path):
    folders = [tmp_path / "first", tmp_path / "second"]
    trackers = [open_tracker(tracking()) for _ in folders]
    for folder, tracker in zip(folders, trackers, strict=True):
        folder.mkdir()
        tracker.start(replace(facts(folder), id=f"demo-{folder.name}"))
    for record in RECORDS:
        trackers[record.round % 2].log(record)
    for tracker in trackers:
        tracker.finish(None, exit_code=1)
    rounds = [[row["round"] for row in history(read_back(folder)[0])] for folder in folders]
    assert rounds == [[0], [1, 3]]
    assert [read_back(folder)[0]["exit"][0].exit_code for folder in folders] == [1, 1]


def test_resumes_drop_and_double_nothing(tmp_path):
    """Every resume logs all rounds again; stopped ten times, each round is in one file once."""
    import wandb

    for last in range(11):
        tracker = open_tracker(tracking())
        tracker.start(facts(tmp_path))
        for number in range(last + 1):
            tracker.log(RoundRecord(number, {"eval/accuracy": number / 10}))
        tracker.finish(None, exit_code=143)
    wandb.teardown()  # as at the end of a process: everything is written
    rounds = []
    for file in tmp_path.glob("wandb/offline-run-*/run-*.wandb"):
        found = {"history": [e.history for e in entries(file) if e.HasField("history")]}
        rounds += [row["round"] for row in history(found)]
    assert sorted(rounds) == list(range(11))


def test_a_folder_of_the_environment_is_shared_by_runs(tmp_path, monkeypatch):
    """WANDB_DIR holds files of many runs; each resume reads its own. Notes are W&B's affair."""
    import wandb

    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "all"))
    monkeypatch.setenv("WANDB_NOTES", "a word")
    for name, last in (("one", 1), ("two", 0), ("one", 2)):
        (tmp_path / name).mkdir(exist_ok=True)
        tracker = open_tracker(tracking())
        tracker.start(replace(facts(tmp_path / name), id=f"demo-{name}"))
        for record in RECORDS[: last + 1]:
            tracker.log(record)
        tracker.finish(None)
        wandb.teardown()
    found = {}
    for file in sorted(tmp_path.glob("all/wandb/offline-run-*/run-*.wandb")):
        read = list(entries(file))
        assert next(e.run.notes for e in read if e.HasField("run")) == "a word"
        rows = history({"history": [e.history for e in read if e.HasField("history")]})
        found.setdefault(file.stem, []).append([row["round"] for row in rows])
    assert found == {"run-demo-one": [[0, 1], [3]], "run-demo-two": [[0]]}
    assert not list(tmp_path.glob("one/wandb/offline*"))


def test_a_hanging_init_costs_the_run_nothing_but_the_limit(tmp_path, monkeypatch):
    import wandb

    forever = threading.Event()
    monkeypatch.setattr(wandb, "init", lambda **_: forever.wait())
    monkeypatch.setattr(worker, "FINISH_SECONDS", 0.3)
    tracker = open_tracker(tracking())
    start = time.monotonic()
    tracker.start(facts(tmp_path))
    for record in RECORDS * 100:
        tracker.log(record)
    assert time.monotonic() - start < 0.2  # rounds do not wait
    tracker.finish(SUMMARY)
    assert time.monotonic() - start < 1.5
    assert tracker.notes == (
        "W&B tracker off: not finished after 0.3 s; the local records are complete",
    )
    forever.set()


def test_an_absent_package_leaves_one_note(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # import raises ImportError
    tracker = open_tracker(tracking())
    tracker.start(facts(tmp_path))
    tracker.finish(SUMMARY)
    (note,) = tracker.notes
    assert note.startswith("W&B tracker off: import of wandb")


DEAD_SERVER = """
import sys, time
from pathlib import Path
from ffalora_cli.records.trackers import wandb as tracker_module
from tests.records.test_tracker_wandb import facts, tracked, open_tracker, tracking
tracker_module.INIT_SECONDS = 2.0
tracker = open_tracker(tracking(mode="online"))
tracked(tracker, facts(Path(sys.argv[1])))
print("\\n".join(tracker.notes))
"""


@pytest.mark.parametrize(
    ("key", "reason"), [("k" * 40, "W&B tracker off: "), (None, "W&B tracker off: no API key; ")]
)
def test_a_dead_server_or_no_account_ends_with_a_note(tmp_path, monkeypatch, key, reason, request):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_SERVICE", raising=False)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    else:
        monkeypatch.delenv("WANDB_API_KEY", raising=False)
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", DEAD_SERVER, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=request.config.rootpath,
        timeout=60,
    )
    assert result.returncode == 0 and result.stderr == ""
    assert result.stdout.startswith(reason) and result.stdout.count("\n") == 1
    assert time.monotonic() - start < 20
    for file in tmp_path.rglob("*"):
        assert not (key and file.is_file() and key.encode() in file.read_bytes()), file


def test_trackers_are_the_files_of_the_folder():
    assert TRACKERS.names() == ["none", "tensorboard", "trackio", "wandb"]
    with pytest.raises(ConfigError, match=r"tracking\.name='wandbb'.*did you mean 'wandb'"):
        open_tracker(tracking(name="wandbb"))


def test_none_sends_nothing_and_importing_trackers_does_not_import_wandb(tmp_path):
    tracker = open_tracker(tracking(name="none"))
    tracker.start(facts(tmp_path))
    tracker.log(RECORDS[0])
    tracker.finish(SUMMARY)
    assert tracker.notes == () and tracker.url is None
    assert not list(tmp_path.rglob("*.wandb"))
    code = (
        "import sys, ffalora_cli.records.trackers.wandb, ffalora_cli.records.trackers.base;"
        "sys.exit('wandb' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
