"""The benchmark's own arithmetic: FLOPs, index lists, lengths; and that it runs at all."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ffalora_cli.adapters import layout
from tests import ROOT
from tests.tiny import TinyExamples, tiny_network

SCRIPTS = ROOT / "scripts"


def counted(run):
    """FLOPs of a call."""
    with FlopCounterMode(display=False) as counter:
        outcome = run()
    return outcome, counter.get_total_flops()


def watched_outputs(network, zeros):
    """Make every site's output a function of ``zeros``, so that backward has to reach it."""
    for site in network.sites:
        base = network.model.get_submodule(f"{site.name}.base")
        base.register_forward_hook(lambda _, __, out: out + zeros)


@pytest.mark.parametrize(
    ("head_row_only", "lengths"),
    [(True, [7] * 5), (True, [13, 9, 9, 4]), (False, [7] * 5)],
    ids=["packed", "packed, ragged", "every row"],
)
def test_flops_are_those_that_torch_counts(monkeypatch, head_row_only, lengths):
    """The packed forward and Hugging Face's own, whose last layer computes every row."""
    from scripts.bench.flops import Shape, step_flops

    monkeypatch.setattr(layout, "TOKEN_BUCKET", 1)  # the formula counts real rows only
    monkeypatch.setattr(layout, "ROW_BUCKET", 1)
    monkeypatch.setitem(layout.CLASS_ROWS, torch.float32, 0)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", bool)  # it does not count oneDNN's
    network = tiny_network("bert")
    examples = TinyExamples(len(lengths))
    examples.lengths = np.array(lengths, np.int32)
    examples.tokens = [np.arange(4, 4 + n) for n in lengths]
    zeros = torch.zeros(1, requires_grad=True)
    watched_outputs(network, zeros)
    rows = np.arange(len(lengths))
    if head_row_only:

        def logits():
            return network.outputs(network.inputs(examples, rows), {})
    else:
        network.model.set_attn_implementation("eager")
        inputs = examples.inputs(rows)

        def logits():
            return network.model(**inputs).logits

    with sdpa_kernel(SDPBackend.MATH):  # plain products, which the counter sees one by one
        scores, forward = counted(logits)
        _, backward = counted(lambda: torch.autograd.grad(scores.sum(), zeros))
    shape = Shape.of(network.model.config)
    assert (forward, backward) == step_flops(shape, lengths, 1 if head_row_only else None)


def test_every_profile_uses_each_text_once_and_k300_those_of_k3x100():
    from scripts.bench.workload import PROFILES, rows_of

    for profile in PROFILES.values():
        rows = rows_of(profile)
        assert rows.shape == (profile.steps, profile.clients, profile.batch)
        assert sorted(rows.ravel()) == list(range(rows.size))
    many, few = rows_of(PROFILES["k300"]), rows_of(PROFILES["k3x100"])
    for step in range(4):
        assert set(many[step].ravel()) == set(few[step].ravel())


def test_synthetic_lengths_are_those_of_sst2():
    from scripts.bench.workload import PROFILES, load_texts

    examples, note = load_texts(PROFILES["k300"], None)
    assert 12.5 < examples.lengths.mean() < 14.1
    assert "synthetic" in note
    again, _ = load_texts(PROFILES["k3x100"], None)
    np.testing.assert_array_equal(examples.ids, again.ids)


@pytest.mark.parametrize("method", ["ffa", pytest.param("lora", marks=pytest.mark.slow)])
def test_all_contestants_end_on_the_same_adapters(method, capsys):
    from scripts.bench import run as bench

    pytest.importorskip("opacus")
    pytest.importorskip("peft")
    options = ["--reps", "1", "--padded", "--shared-gradient", "--no-memory", "--json"]
    threads = torch.get_num_threads()
    try:
        assert bench.main(["smoke", "--method", method, *options]) == 0
    finally:
        torch.set_num_threads(threads)
    report = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in report["rows"]}
    assert len(rows) == 9
    assert rows["stacked"]["padding"] < rows["peft_opacus+128"]["padding"]
    assert rows["reference+128"]["padding"] > 0.8
    assert all(row["difference"] < 1e-5 for row in rows.values() if row["difference"] is not None)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["k4"], "k30"),
        (["smoke", "--contestants", "stakced"], "stacked"),
        (["smoke", "--contestants", "stacked+256"], "128"),
        (["smoke", "--contestants", "peft_opacus", "--no-privacy"], "privacy"),
        (["smoke", "--max-tokens", "3"], "longest"),
        (["smoke", "--device", "cuda:7"], "cuda"),
    ],
)
def test_bad_arguments_are_one_line(arguments, word, capsys):
    from scripts.bench import run as bench

    threads = torch.get_num_threads()
    try:
        assert bench.main(arguments) == 2
    finally:
        torch.set_num_threads(threads)
    told = capsys.readouterr().err
    assert word in told and told.count("\n") == 1


def test_the_engine_part_needs_torch_and_transformers_only():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import scripts.bench.run, scripts.bench.measure, ffalora_cli.engine.stacked.engine\n"
        "others = {'opacus', 'peft', 'datasets', 'wandb', 'pyarrow', 'hydra', 'scipy', 'rich',\n"
        "          'pandas', 'matplotlib', 'safetensors', 'dp_accounting'} & set(sys.modules)\n"
        "print(others)"
    )
    told = subprocess.check_output([sys.executable, "-c", code, str(ROOT)], text=True, timeout=120)
    assert told == "set()\n"


def test_population_of_a_thousand_clients(capsys):
    from scripts.bench import population

    small = ["--clients", "1000", "--rows", "5000", "--cohort", "20"]
    threads = torch.get_num_threads()
    try:
        assert population.main(small) in (0, 1)  # the targets are for a quiet machine
    finally:
        torch.set_num_threads(threads)
    told = capsys.readouterr().out
    assert "partition" in told and told.count("together") == 2


def test_profile_names_where_the_time_went(capsys):
    from scripts.bench import profile_step

    threads = torch.get_num_threads()
    try:
        assert profile_step.main(["smoke", "--operators", "3"]) == 0
    finally:
        torch.set_num_threads(threads)
    told = capsys.readouterr().out
    assert all(group in told for group in profile_step.GROUPS)
    shares = {
        line[:32].strip(): float(line.split()[-1].rstrip("%"))
        for line in told.splitlines()
        if line.endswith("%") and not line.startswith("  ")
    }
    # Ours are autograd functions of our own: their products are theirs, not the rest's.
    assert shares["attention"] > 2 and shares["adapters"] > 2


def test_an_imagined_gpu_counts_what_it_is_asked():
    from scripts.bench.imagined import FROM_HOST, imagined_gpu, watched

    with imagined_gpu():
        with watched() as work:
            x = torch.ones(4, 8).to("cuda")
            assert x.is_cuda and str(x.device) == "cuda:0"
            y = (x @ x.t()).view(16)
            assert y.cpu().device.type == "cpu"
        with pytest.raises(RuntimeError, match="meta"):
            bool(y.sum() > 0)  # a GPU would make the host wait
    assert work.operators == {FROM_HOST: 1, "mm": 1}  # views are no kernels
    assert work.bytes["mm"] == 4 * (4 * 8 + 8 * 4 + 16) and work.flops == 2 * 4 * 8 * 4
    assert work.peak == 4 * (4 * 8 + 16)


def test_kernels_of_a_step(capsys):
    """Arithmetic between the least and that of every row computed; less held in bf16."""
    from scripts.bench import kernels
    from scripts.bench.flops import Shape, step_flops
    from scripts.bench.workload import PROFILES, load_texts

    assert kernels.main(["smoke", "--json"]) == 0
    rows = {(r["precision"], r["private"]): r for r in json.loads(capsys.readouterr().out)}
    lengths = load_texts(replace(PROFILES["smoke"], steps=1), None)[0].lengths
    shape, longest = Shape(2, 32, 48, 2), int(lengths.max())
    for (precision, private), row in rows.items():
        assert row["tokens"] == lengths.sum() < row["rows"]
        assert row["micro_batches"] == 1
        filled = [longest] * (row["rows"] // longest + 1)
        least, most = sum(step_flops(shape, lengths)), 2 * sum(step_flops(shape, filled, None))
        assert least < row["flops"] < most
        assert row["peak_bytes"] > rows["bf16", private]["peak_bytes"] or precision == "bf16"
        assert row["kernels"] > rows[precision, False]["kernels"] or not private
    assert kernels.main(["roberta-lrage"]) == 2
    assert "roberta-large" in capsys.readouterr().err


def test_a_family_beside_its_peer(capsys):
    from scripts.bench import families

    pytest.importorskip("opacus")
    pytest.importorskip("peft")
    threads = torch.get_num_threads()
    try:
        assert families.main(["smoke", "--families", "distilbert", "--reps", "1", "--json"]) == 0
    finally:
        torch.set_num_threads(threads)
    (row,) = json.loads(capsys.readouterr().out)
    assert 0 < row["difference"] < 1e-5 < row["difference_bf16"] < 0.2
    assert row["ratio"].keys() == {"stacked", "stacked+bf16"}
    assert all(row["floors"][p].keys() == {"torch.mm", "oneDNN"} for p in ("fp32", "bf16"))


def test_a_language_model_beside_its_peers(capsys):
    from scripts.bench import run as bench

    pytest.importorskip("opacus")
    pytest.importorskip("peft")
    threads = torch.get_num_threads()
    names = ["--contestants", "stacked,reference,peft_opacus"]
    try:
        assert bench.main(["smoke_lm", *names, "--reps", "1", "--no-memory", "--json"]) == 0
    finally:
        torch.set_num_threads(threads)
    report = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in report["rows"]}
    assert max(rows[name]["difference"] for name in ("reference", "peft_opacus")) < 1e-5
    assert rows["stacked"]["padding"] < rows["peft_opacus"]["padding"]


def test_a_failed_part_does_not_end_the_others(tmp_path, monkeypatch, capsys):
    from scripts.bench import gpu

    monkeypatch.setitem(gpu.LIMITS, "k3", 1e-3)
    options = ["--out", str(tmp_path), "--device", "cpu", "--smoke", "--only"]
    assert gpu.main([*options, "k3,machine"]) == 1
    told = capsys.readouterr().out
    assert "longer than" in told and "1 of 2 parts ok" in told
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert parts["k3"]["state"] == "failed" and parts["machine"]["state"] == "ok"
    assert parts["machine"] == json.loads((tmp_path / "machine.json").read_text())
    assert parts["machine"]["facts"]["flops"]["fp32"] > 1e8


@pytest.mark.slow
def test_everything_a_gpu_must_show_runs_on_a_cpu(tmp_path):
    from scripts.bench import gpu

    assert gpu.main(["--out", str(tmp_path), "--device", "cpu", "--smoke"]) == 0
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert parts.keys() == gpu.LIMITS.keys()
    assert parts["simulation"]["facts"] == {"private": True, "fp32": [], "bf16": []}
