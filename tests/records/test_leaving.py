"""Every metric a run can produce has a line, and what is private does not leave the run folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ffalora_cli import experiment
from ffalora_cli.compose.jobs import plan
from ffalora_cli.records import run_directory
from ffalora_cli.records.leaving import (
    LINES,
    kind,
    leaving,
    metric_may_leave,
    released,
)
from ffalora_cli.records.reading import RunRecords
from ffalora_cli.records.trackers.base import RunFacts
from ffalora_cli.types import RoundRecord
from tests.tiny import save_tiny_bert


class Collector:
    def __init__(self):
        self.names = set()

    def note(self, text): ...
    def started(self, facts): ...
    def finished(self, summary): ...

    def working(self, on, done, total): ...

    def round_done(self, record):
        self.names |= record.metrics.keys()


@pytest.fixture(scope="module")
def produced(tmp_path_factory) -> dict[str, set[str]]:
    """Metrics of real rounds: every kind of run that adds some of its own."""
    folder = tmp_path_factory.mktemp("tags")
    model = save_tiny_bert(folder / "model")
    kinds = {
        "adaptive": ["privacy.clip_quantile=0.5", "privacy.clip_count_noise=20"],
        "personal": ["method=fedsa_lora", "federation.eval_clients=true", "diagnostics=mechanism"],
        "clients": ["federation.eval_clients=true", "privacy=none"],
        "client": ["privacy=client", "federation.weights=uniform"],
    }
    found = {}
    for name, typed in kinds.items():
        source = ["model=auto", f"model.source={model}", f"paths.runs={folder}", "debug=tiny"]
        (job,) = plan([*source, "privacy.accountant=rdp", *typed])
        seen = Collector()
        experiment.run(job, seen)
        found[name] = seen.names
    return found


def lines_for(names):
    """The first line that fits each metric, by trying the lines one by one."""
    from ffalora_cli.records.leaving import _pattern

    return {next(p for p, *_ in LINES if _pattern(p).fullmatch(f"metrics.{n}")) for n in names}


def test_every_metric_of_every_kind_of_run_has_a_line_of_its_own(produced):
    names = set().union(*produced.values())
    assert {"privacy/max_grad_norm", "eval/personalized_accuracy_min", "train/loss"} <= names
    assert "eval/client_accuracy_own_labels" in names
    used = lines_for(names)
    assert "metrics.*" not in used, "add a line to records/leaving.py"
    assert used == {p for p, *_ in LINES if p.startswith("metrics.")} - {"metrics.*"}


@pytest.mark.parametrize(
    ("metric", "inside", "client"),
    [
        ("eval/accuracy", True, True),
        ("eval/validation_mismatched/loss", True, True),
        ("eval/client_accuracy_own_labels", False, False),
        ("eval/personalized_accuracy", True, False),
        ("comm/uplink_bytes_total", True, False),
        ("mechanism/aggregation_gap/bert.encoder.layer.0.query", True, True),
        ("train/loss", False, False),
        ("train/clipped_share", False, False),
        ("best/train/loss", False, False),
        ("engine/padding_share", False, False),
        ("time/samples_per_second", False, False),
        ("time/round_seconds", False, False),
        ("something/new", False, False),  # nobody has thought about it yet
    ],
)
def test_which_metrics_may_leave(metric, inside, client):
    for unit in ("row", "text", "column"):
        assert metric_may_leave(metric, unit) == inside
    assert metric_may_leave(metric, "client") == client
    assert metric_may_leave(metric, "none")


@pytest.mark.parametrize(("asked", "sent"), [(False, {"eval/accuracy"}), (True, None)])
def test_private_metrics_are_sent_only_when_asked_for(asked, sent):
    (job,) = plan(["tracking=wandb", f"tracking.private_metrics={str(asked).lower()}"])
    facts = RunFacts("id", "name", Path("."), job.resolved)
    metrics = {"eval/accuracy": 0.5, "train/loss": 1.0, "new/metric": 2.0}
    assert set(facts.released(metrics)) == (sent or set(metrics))
    (plain,) = plan(["tracking=wandb"])
    assert plain.signature == job.signature  # where records go cannot change results
    assert json.dumps(job.resolved)


def test_a_private_headline_does_not_leave_under_another_name():
    best = {"round": 2, "value": 0.9}
    summary = {"headline": "eval/personalized_accuracy", "value": 0.9, "best": best}
    (job,) = plan(["privacy=client", "federation.weights=uniform"])
    facts = RunFacts("id", "name", Path("."), job.resolved)
    assert facts.summary(summary) == {"headline": "eval/personalized_accuracy"}
    assert facts.summary(summary | {"headline": "eval/accuracy"}) == {
        "headline": "eval/accuracy", "best/round": 2, "best/eval/accuracy": 0.9,
    }  # fmt: skip


MANIFEST = {
    "signature": "abc",
    "created": "2026-11-28T12:34:56+00:00",
    "client_sizes": [3, 4],
    "data_fingerprints": {"train": "t", "holdout": "h", "validation": "v"},
    "data": {"train": {"labels": {"a": 3}}, "evals": {"holdout": {"fingerprint": "h", "rows": 9}}},
    "identity": {"data": {"train": "t", "clients": "c"}},
    "forked_from": {"id": "x", "state": "s"},
    "something new": 1,
}


def test_a_manifest_without_anything_of_private_rows():
    assert leaving(MANIFEST, "manifest", "text") == {
        "signature": "abc",
        "created": "2026-11-28T12:34:56+00:00",
        "data_fingerprints": {"validation": "v"},
        "data": {"evals": {"holdout": {}}},
        "forked_from": {"id": "x"},
    }
    plain = leaving(MANIFEST, "manifest", "none")
    assert plain["data_fingerprints"] == MANIFEST["data_fingerprints"]
    assert plain["identity"] == {"data": {"clients": "c"}}
    assert "something new" not in plain and "client_sizes" not in plain


def test_a_released_run_has_whole_minutes_and_no_clients():
    summary = {"headline": "eval/accuracy", "value": 0.5, "seconds": 99.4, "status": "finished"}
    summary |= {"ended": "2026-11-28T12:36:35+00:00", "privacy": {"clients": [1]}}
    summary |= {"final": {"eval/accuracy": 0.5, "train/loss": 1.0}, "initial": {}}
    record = RoundRecord(1, {"eval/accuracy": 0.5, "time/round_seconds": 3.0}, ({"client": 0},))
    claim = {"sentence": "epsilon 6", "clients": [{"examples": 3}], "warnings": ["2 texts"]}
    config = {"privacy": {"unit": "row"}}
    run = released(RunRecords(Path("r"), MANIFEST, config, (record,), claim, summary, False))
    assert run.summary["seconds"] == 120.0 and run.summary["ended"] == "2026-11-28T12:36:00+00:00"
    assert run.manifest["created"] == "2026-11-28T12:34:00+00:00"
    assert run.summary["final"] == {"eval/accuracy": 0.5} and "privacy" not in run.summary
    assert run.rounds == (RoundRecord(1, {"eval/accuracy": 0.5}),)
    assert run.privacy == {"sentence": "epsilon 6"}


def test_the_first_line_decides_and_paths_never_leave():
    assert kind("config.paths.data", "none") == "never" == kind("config.paths.runs", "row")
    assert kind("config.task.name", "row") == "public"
    assert leaving({"paths": {"runs": "r"}, "seed": 1}, "config", "none") == {"seed": 1}
    assert kind("file.tokenizer_config.json", "client") == "public"
    assert kind("file.notes.txt", "none") is None


def test_no_file_of_a_run_folder_is_called_as_one_that_leaves_with_an_export():
    """``labels.json`` of an export says names; label counts of clients must not go as it does."""
    table = run_directory.__doc__.split("\n\n")[1]
    names = re.findall(r"^\| (\w+\.\w+) ", table, re.MULTILINE)
    assert {"label_counts.json", "clients.safetensors", "generated.jsonl"} <= {*names}
    assert {name: kind(f"file.{name}", "row") for name in names} == dict.fromkeys(names)
