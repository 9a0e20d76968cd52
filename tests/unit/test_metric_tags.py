"""Every metric a run can produce has a tag, and what is private does not leave the run folder."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from ffalora_cli import experiment
from ffalora_cli.cli.jobs import plan
from ffalora_cli.records.metric_tags import TAGS, may_leave, tag
from ffalora_cli.records.trackers.base import RunFacts
from ffalora_cli.records.trackers.worker import summary_values
from tests.tiny import save_tiny_bert


class Collector:
    def __init__(self):
        self.names = set()

    def note(self, text): ...
    def started(self, facts): ...
    def finished(self, summary): ...

    def round_done(self, record):
        self.names |= record.metrics.keys()


@pytest.fixture(scope="module")
def produced(tmp_path_factory) -> dict[str, set[str]]:
    """Metrics of real rounds: every kind of run that adds some of its own."""
    folder = tmp_path_factory.mktemp("tags")
    model = save_tiny_bert(folder / "model")
    kinds = {
        "adaptive": ["privacy.clip_quantile=0.5", "privacy.clip_count_noise=20"],
        "personal": ["method=fedsa_lora", "federation.eval_clients=true"],
        "clients": ["federation.eval_clients=true", "privacy=none"],
        "client": ["privacy=client", "federation.weights=uniform"],
    }
    found = {}
    for name, typed in kinds.items():
        source = ["model=auto", f"model.source={model}", f"paths.runs={folder}", "debug=tiny"]
        (job,) = plan([*source, "privacy.accountant=rdp", *typed])
        seen = Collector()
        experiment.run(job.config, job.resolved, job.signature, seen)
        found[name] = seen.names
    return found


def test_every_metric_of_every_kind_of_run_has_a_tag(produced):
    names = set().union(*produced.values())
    assert {"privacy/max_grad_norm", "eval/personalized_accuracy_min", "train/loss"} <= names
    assert "eval/client_accuracy_own_labels" in names
    untagged = sorted(n for n in names if tag(n, "example") is None or tag(n, "client") is None)
    assert not untagged, f"add a line to records/metric_tags.py for {untagged}"


def test_every_line_of_the_table_is_needed(produced):
    names = set().union(*produced.values())
    first = {next(p for p, _ in TAGS if fnmatchcase(n, p)) for n in names}
    assert first == {pattern for pattern, _ in TAGS}


@pytest.mark.parametrize(
    ("metric", "example", "client"),
    [
        ("eval/accuracy", True, True),
        ("eval/validation_mismatched/loss", True, True),
        ("eval/client_accuracy_own_labels", False, False),
        ("eval/personalized_accuracy", True, False),
        ("comm/uplink_bytes_total", True, False),
        ("train/loss", False, False),
        ("best/train/loss", False, False),
        ("engine/padding_share", False, False),
        ("time/samples_per_second", False, False),
        ("something/new", False, False),  # nobody has thought about it yet
        ("best/value", True, True),
        ("seconds", True, True),
    ],
)
def test_what_may_leave(metric, example, client):
    assert (may_leave(metric, "example"), may_leave(metric, "client")) == (example, client)
    assert may_leave(metric, "none")


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
    summary = {"headline": "eval/personalized_accuracy", "value": 0.9, "best": {"value": 0.9}}
    (job,) = plan(["privacy=client", "federation.weights=uniform"])
    facts = RunFacts("id", "name", Path("."), job.resolved)
    assert summary_values(summary, facts) == {"headline": "eval/personalized_accuracy"}
    assert summary_values(summary | {"headline": "eval/accuracy"}, facts)["best/value"] == 0.9
