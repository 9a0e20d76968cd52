"""Regression and token classification: trained by both engines, scored, reported, refused."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

from ffalora_cli.cli.main import main
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.schema import AdapterConfig
from ffalora_cli.engine.build import build_engine
from ffalora_cli.engine.evaluate import predict
from ffalora_cli.models.backbone import Backbone
from ffalora_cli.models.network import build_network
from ffalora_cli.tasks import registry
from ffalora_cli.tasks.targets import Targets
from tests.engine.test_engines import gap, job
from tests.tiny import BERT_TARGETS, SMALL, TinyExamples, save_tiny_bert


def network_of(kind, model_class, outputs):
    torch.manual_seed(0)
    model = model_class(BertConfig(**SMALL | {"num_labels": outputs}))
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.15)
    backbone = Backbone(model.eval().requires_grad_(False), "tiny", (), registry.get(kind))
    adapter = AdapterConfig(4, 8.0, "query_value", "kaiming", 0, 0.0)
    return build_network(backbone, adapter, BERT_TARGETS)


def tagged(examples):
    """Every other token of a row has one of three classes, each of weight one over their number."""
    generator = np.random.default_rng(1)
    positions = [np.arange(0, length, 2) for length in examples.lengths]
    counts = np.array([len(row) for row in positions])
    return Targets(
        generator.integers(0, 3, counts.sum()),
        np.r_[0, np.cumsum(counts)],
        np.concatenate(positions).astype(np.int32),
        np.repeat(1 / counts, counts).astype(np.float32),
    )


def cases():
    """Network and examples of both kinds."""
    numbers, tags = TinyExamples(36), TinyExamples(36)
    numbers.targets = Targets(np.random.default_rng(1).normal(size=36).astype(np.float32))
    tags.targets = tagged(tags)
    yield network_of("regression", BertForSequenceClassification, 1), numbers
    yield network_of("token_classification", BertForTokenClassification, 3), tags


@pytest.mark.parametrize("private", [True, False], ids=["private", "plain"])
def test_both_engines_train_numbers_and_tags(private):
    for network, examples in cases():
        assert network.packs  # tokens too are read from rows that lie end to end
        work = job(network, factors=("lora_a", "lora_b"), head=True, private=private)
        stacked = build_engine("stacked", network, examples, 64).train(work)
        reference = build_engine("reference", network, examples, 64).train(work)
        assert gap(stacked.trained, reference.trained) < 1e-4
        assert np.allclose(stacked.loss_sum, reference.loss_sum, rtol=1e-5)
        assert np.array_equal(stacked.clipped, reference.clipped)


def test_an_example_s_loss_is_the_weighted_sum_of_its_own_targets():
    _, (network, examples) = cases()
    scored = predict(network, examples, network.initial, 64)
    answers, losses = scored.answers, scored.by_row()
    ends = examples.targets.offsets
    for row in range(len(losses)):
        logits = network.plain(**examples.inputs(np.array([row]))).logits[0, ::2]  # [targets, 3]
        wanted = torch.from_numpy(examples.targets.values[ends[row] : ends[row + 1]])
        mean = torch.nn.functional.cross_entropy(logits, wanted)
        assert losses[row] == pytest.approx(float(mean), abs=1e-5)
        assert np.array_equal(answers[ends[row] : ends[row + 1]], logits.argmax(-1))
    some = examples.targets.take(np.array([7, 3, 7]))
    batch = examples.targets.batch(np.array([7, 3, 7]))
    assert np.array_equal(some.values, batch.values) and len(some) == 3
    assert np.array_equal(np.diff(some.offsets), np.bincount(batch.owner))


def test_a_run_is_judged_by_the_kind_s_own_declaration(tmp_path, capsys):
    rows = ["text,label", *(f"{'good ' * (i % 7)}film {i},{i % 7 / 3}" for i in range(40))]
    for split in ("train", "validation"):
        file = tmp_path / "data" / "mine" / f"{split}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(rows))
    runs, model = tmp_path / "runs", save_tiny_bert(tmp_path / "model")
    words = ["debug=tiny", "privacy=none", "task=sst2", "task.name=mine", "task.kind=regression"]
    words += ["task.text_columns=[text]", "task.classes=[]", "task.metrics=[mse]", "model=auto"]
    words += [f"model.source={model}", f"paths.data={tmp_path / 'data'}", f"paths.runs={runs}"]
    capsys.readouterr()
    assert main(["run", *words, "partition=dirichlet"]) == 2
    said = capsys.readouterr().err.strip()
    assert "partition.name=dirichlet" in said and "task.kind=regression has no" in said
    assert said.count("\n") == 0 and not runs.exists()

    words += ["partition=iid", "federation.rounds=2", "federation.eval_clients=true"]
    assert main(["run", *words]) == 0
    shown = capsys.readouterr().out
    (folder,) = (path for path in runs.iterdir() if path.is_dir())
    summary = json.loads((folder / "summary.json").read_text())
    lines = [json.loads(line)["metrics"] for line in (folder / "rounds.jsonl").open()]
    scores = [metrics["eval/mse"] for metrics in lines]
    assert summary["headline"] == "eval/mse" and summary["best"]["value"] == min(scores)
    assert f"mse {scores[-1]:.3f}" in shown and "eval/client_mse_own_labels" in lines[-1]
    assert scores[-1] == pytest.approx(lines[-1]["eval/loss"], rel=1e-5)
    assert not registry.higher_is_better("eval/mse") and not registry.is_percent("eval/mse")
    assert main(["compare", str(folder)]) == 0
    assert "mse" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"weights": [1, -1, 1]}, "row 3 has a weight that is negative"),
        ({"weights": [np.nan, 0, 1]}, "row 1 has a weight that is negative or not finite"),
        ({"values": [0, 1, np.inf]}, "row 3 has a value that is not finite"),
        ({"positions": [0, 4, 1]}, "row 3 has a target beyond its tokens"),
        ({"positions": [-1, 3, 1]}, "row 1 has a target beyond its tokens"),
        ({"offsets": [0, 1, 3]}, "3 rows and their targets do not fit"),
        ({"offsets": [0, 2, 1, 3]}, "3 rows and their targets do not fit"),
        ({"weights": [1, 1]}, "3 rows and their targets do not fit"),
    ],
)
def test_targets_that_no_loss_is_made_of_are_refused(wrong, said):
    """Three rows of 3, 4 and 4 tokens; the second has no target."""
    fine = {"values": [0, 1, 2], "offsets": [0, 1, 1, 3], "weights": [1, 0, 1]}
    fine["positions"] = [2, 3, 0]
    lengths = np.array([3, 4, 4])
    Targets(**{name: np.array(array) for name, array in fine.items()}).check(lengths, "here")
    with pytest.raises(ConfigError, match=f"here: {said}"):
        Targets(**{n: np.array(a) for n, a in (fine | wrong).items()}).check(lengths, "here")


@pytest.mark.parametrize(
    "typed, wrong",
    [
        ("head.mode=trained", r"head\.mode=trained: task\.kind=causal_lm has no head"),
        ("partition=dirichlet", r"iid or quantity, or name them in task\.label_column and"),
    ],
)
def test_a_language_model_has_no_head_and_labels_only_where_it_names_them(typed, wrong):
    words = ["task=gsm8k", "model=smollm2", "partition=iid", "privacy=none"]
    with pytest.raises(ConfigError, match=wrong):
        plan([*words, typed])
    assert plan([*words, "method=fedsa_lora"])[0].config.head.mode == "personal"


def test_what_kinds_declare_is_readable_without_arrays():
    """``ls``, ``validate`` and ``explain`` ask every kind."""
    code = (
        "import sys; from ffalora_cli.tasks.registry import KINDS, get\n"
        "found = [get(kind).metrics for kind in sorted(KINDS.own())]\n"
        "assert len(found) >= 5 and not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
