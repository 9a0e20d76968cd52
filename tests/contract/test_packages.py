"""A kind of task, a form and methods from outside: the files of ``docs/adding.md``, installed."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest
import torch

from ffalora_cli import experiment
from ffalora_cli.adapters.registry import FORMS
from ffalora_cli.cli.jobs import plan
from ffalora_cli.cli.main import main
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.engine import build_engine
from ffalora_cli.experiment.parts import build
from ffalora_cli.methods import registry
from ffalora_cli.records.reading import read_run
from ffalora_cli.tasks.registry import KINDS
from tests import ROOT
from tests.arrivals import EXAMPLE, federate
from tests.docs.blocks import blocks_of
from tests.packages import install
from tests.tiny import TinyExamples, save_tiny_bert
from tests.trackers import Silent

FILES = {b.file: b.text for b in blocks_of(ROOT / "docs" / "adding.md") if b.file}
OFFERS = tomllib.loads(FILES["pyproject.toml"])["project"]["entry-points"]


@pytest.fixture(autouse=True)
def _installed(tmp_path, monkeypatch):
    for name in tomllib.loads(FILES["pyproject.toml"])["tool"]["setuptools"]["py-modules"]:
        (tmp_path / f"{name}.py").write_text(FILES[f"{name}.py"])
    install(tmp_path, "mine", OFFERS)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_what_a_package_offers_is_found(capsys):
    assert "rating" in KINDS.names() and "half" in FORMS.names()
    assert {"half_ffa", "in_turn"} <= set(registry.names())
    assert main(["ls", "methods"]) == 0
    assert "installed, method.name=in_turn" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["half_ffa", "in_turn"])
def test_both_engines_train_it_alike(method):
    """Product on stacked copies, and ordinary layers under Opacus: with clip and noise the same."""
    stacked, reference = (federate(method, EXAMPLE, rounds=2) for _ in range(2))
    reference.engine = build_engine("reference", reference.network, TinyExamples(64), 64)
    for sim in (stacked, reference):
        list(sim.rounds())
    assert any(not torch.equal(v, stacked.network.initial[n]) for n, v in stacked.tensors.items())
    for name, value in stacked.tensors.items():
        torch.testing.assert_close(value, reference.tensors[name], rtol=1e-4, atol=1e-5)
    assert stacked.communication.rows() == reference.communication.rows()


def test_the_dense_product_of_the_form_is_what_its_adapter_computes():
    sim = federate("half_ffa", rounds=1)
    list(sim.rounds())
    network, rows, examples = sim.network, np.array([5]), TinyExamples(64)
    adapted = network.outputs(network.inputs(examples, rows), sim.tensors)
    plain = network.plain(**examples.inputs(rows)).logits
    for site in network.sites:
        product = network.form.dense(network.form.of_site(sim.tensors, site), network.scale)
        assert product.shape == (site.d_out, site.d_in)
        network.plain.get_submodule(site.name).weight.data += product
    merged = network.plain(**examples.inputs(rows)).logits
    torch.testing.assert_close(adapted, merged, rtol=1e-4, atol=1e-5)
    assert (merged - plain).abs().max() > 1e-3


def test_a_kind_of_task_is_trained_and_scored_as_it_says(tmp_path):
    lines = [f"film number {i} has {i % 5} stars,{i % 5}" for i in range(30)]
    for split in ("train", "validation"):
        file = tmp_path / "data" / "sst2" / f"{split}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(["sentence,stars", *(f"{split} {line}" for line in lines)]))
    words = ["task=sst2", "task.kind=rating", "task.label_column=stars", "task.classes=[]"]
    words += ["task.metrics=[mae]", "privacy=none", f"paths.data={tmp_path / 'data'}"]
    words += [f"model.source={save_tiny_bert(tmp_path / 'model')}", f"paths.runs={tmp_path}"]
    words += ["federation.rounds=3", "federation.local_batch_size=8", "federation.local_lr=2"]
    with pytest.raises(ConfigError, match="deals rows by label"):
        plan([*words, "partition=dirichlet"])
    (job,) = plan([*words, "partition=iid"])
    rounds = read_run(experiment.run(job, Silent())["run_dir"]).rounds
    parts = build(job.config, job.signature, Silent())
    (rows,) = parts.data.evals.values()
    model = parts.simulation.network.plain  # as in round 0
    given = [float(model(**rows.inputs(np.array([i]))).logits) for i in range(len(rows))]
    off = np.abs(np.array(given) - [i % 5 for i in range(30)])
    assert rounds[0].metrics["eval/mae"] == pytest.approx(off.mean(), rel=1e-5)
    assert rounds[0].metrics["eval/loss"] == pytest.approx((off**2).mean(), rel=1e-5)
    assert rounds[-1].metrics["eval/loss"] < rounds[0].metrics["eval/loss"]
