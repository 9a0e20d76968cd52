"""The example on the engine and the wire is the run of the command line, to the bit."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from ffa_lora_in_200_lines import Setting, ffa_lora, main
from safetensors.torch import load_file

from ffalora_cli import experiment, metric_keys
from ffalora_cli.compose.jobs import plan
from ffalora_cli.experiment.parts import build
from ffalora_cli.records.reading import read_run
from tests import ROOT
from tests.tiny import save_tiny_bert
from tests.trackers import Silent


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("example") / "model")


@pytest.mark.parametrize("privacy", ["none", "paper"])
def test_the_example_is_the_run(privacy, model, tmp_path):
    words = ["experiment=quickstart", f"privacy={privacy}", f"model.source={model}"]
    words += ["federation.rounds=3", "federation.local_steps=2", f"paths.runs={tmp_path}"]
    (job,) = plan(words)
    run = read_run(experiment.run(job, Silent())["run_dir"])
    setting, secret = Setting(model=model, rounds=3, local_steps=2), b""
    if privacy == "none":
        setting = dataclasses.replace(setting, epsilon=0.0)
    else:  # as the run drew it: a hash of seed, signature and inputs
        secret = build(job.config, job.signature, Silent()).simulation.secret
    ours, last = ffa_lora(setting, secret), run.rounds[-1].metrics

    theirs = load_file(run.path / "adapter.safetensors")
    assert theirs.keys() == ours.tensors.keys()
    assert all(torch.equal(value, ours.tensors[name]) for name, value in theirs.items())
    assert any(value.any() for name, value in theirs.items() if name.endswith("lora_b"))
    assert ours.uplink_bytes == last[metric_keys.UPLINK_TOTAL]
    assert ours.downlink_bytes == last[metric_keys.DOWNLINK_TOTAL]
    assert ours.accuracy == last[metric_keys.evaluated("accuracy")]
    assert ours.epsilon == last.get(metric_keys.EPSILON, 0.0)


def test_it_is_a_script_of_fewer_than_200_lines(model, capsys):
    main(["--model", model, "--rounds", "1"])
    said, line = capsys.readouterr().out.splitlines()
    assert said.startswith("epsilon: one row ") and line.startswith("round 1: accuracy ")
    assert line.endswith("epsilon 6.00")
    with pytest.raises(SystemExit, match="2"):
        main(["--rounds", "0"])
    text = (ROOT / "examples" / "ffa_lora_in_200_lines.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 200
