"""docs/metrics.md is what its generator writes today, and has every key that a run writes."""

from __future__ import annotations

import re

import pytest

from ffalora_cli import experiment, metric_keys
from ffalora_cli.compose.jobs import plan
from ffalora_cli.records.reading import read_run
from scripts.make_metrics_reference import FILE, reference
from tests import ROOT
from tests.tiny import save_tiny_bert
from tests.trackers import Silent

RUNS = {
    "no privacy": ["privacy=none", "method=lora", "head.mode=trained"],
    "rows": ["method=ffa_lora", "federation.eval_clients=true"],
    "adaptive clip": [
        "method=lora",
        "privacy.clip_quantile=0.5",
        "privacy.clip_count_noise=1",
        "diagnostics=mechanism",
    ],
    "clients": ["method=lora", "privacy.unit=client", "federation.weights=uniform"],
    "personal": ["privacy=none", "method=fedsa_lora", "federation.dropout_rate=0.3"],
    "merges": ["privacy=none", "method=fedex_lora", "federation.num_clients=4"],
    "alternating": ["privacy=none", "method=rolora"],
}
"""Together they write every key that a run on this machine can be made to write."""
RARE = {metric_keys.HALVINGS, metric_keys.UNITS}  # too little memory; units of several rows
FURTHER_SPLIT = {metric_keys.evaluated(name, "<split>") for name in ("loss", "<metric>")}


# Of language models' answers: ``tests/experiment/test_generated.py`` has a run that writes them.
GENERATED = {
    metric_keys.evaluated("generated_unfinished"),
    *metric_keys.interval(metric_keys.evaluated("<metric>")),
}


def test_the_page_is_up_to_date():
    assert FILE.read_text(encoding="utf-8") == reference(), (
        "run: python -m scripts.make_metrics_reference"
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Keys of the rounds of small runs of every kind, by run."""
    root = tmp_path_factory.mktemp("metrics")
    common = [
        "model=auto",
        f"model.source={save_tiny_bert(root / 'model')}",
        "debug=tiny",
        "task.max_length=8",
        "privacy.accountant=rdp",
        "federation.rounds=2",
        f"paths.runs={root / 'runs'}",
    ]
    found = {}
    for name, overrides in RUNS.items():
        (job,) = plan([*common, *overrides])
        folder = experiment.run(job, Silent())["run_dir"]
        found[name] = {key for record in read_run(folder).rounds for key in record.metrics}
    return found


def test_every_key_of_a_round_is_listed(written):
    for name, keys in written.items():
        assert {key for key in keys if metric_keys.described(key) is None} == set(), name


def test_every_listed_key_is_written_by_some_run(written):
    metrics = set().union(*written.values())
    metrics |= {metric_keys.gap_of("<layer>") for key in metrics if metric_keys.gap_of("") in key}
    listed = set(metric_keys.METRICS) - RARE - FURTHER_SPLIT - GENERATED
    patterns = {key: re.sub("<metric>", "accuracy", key) for key in listed}
    assert {key for key, name in patterns.items() if name not in metrics} == set()


def test_what_describes_a_key():
    described = metric_keys.described
    assert (
        described("eval/validation_mismatched/accuracy")
        == metric_keys.METRICS["eval/<split>/<metric>"]
    )
    assert described("eval/holdout/loss").better == "lower"
    assert described("comm/head_bytes_total").unit == "bytes"
    assert described("comm/head_kilobytes") is None and described("eval/a/b/c") is None


def test_no_module_spells_a_key():
    spelled = re.compile(r"""["'](?:eval|train|comm|privacy|time|engine)/[\w{]""")
    package = ROOT / "ffalora_cli"
    found = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path in package.rglob("*.py")
        if path.name != "metric_keys.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if spelled.search(line)
    ]
    assert found == []
