"""Every shipped experiment runs a round on its data; real weights learn; a run repeats itself."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ffalora_cli import experiment
from ffalora_cli.compose import catalogue
from ffalora_cli.compose.grids import axes
from ffalora_cli.compose.jobs import plan
from ffalora_cli.records.reading import read_run
from tests.grids import one_job
from tests.language import save_tiny_llama
from tests.tiny import save_tiny_bert

DATA = os.environ.get("FFALORA_DATA")
EXPERIMENTS = [name for name in catalogue.options("experiment") if not axes(name)]


class Silent:
    """An observer that keeps what it is told."""

    def __init__(self):
        self.records, self.facts, self.notes = [], {}, []

    def note(self, text):
        self.notes.append(text)

    def started(self, facts):
        self.facts = dict(facts)

    def working(self, on, done, total): ...

    def round_done(self, record):
        self.records.append(record)

    def finished(self, summary):
        self.summary = dict(summary)


def run(*overrides, again=False):
    (job,) = plan(list(overrides))
    seen = Silent()
    summary = experiment.run(replace(job, again=again), seen)
    return summary, seen


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> str:
    return save_tiny_bert(tmp_path_factory.mktemp("tiny_bert"))


@pytest.fixture(scope="session")
def tiny_language(tiny_folder, tmp_path_factory) -> str:
    """As many layers as an experiment adapts, and a tokenizer of whole words."""
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(tiny_folder, bos_token="[CLS]", eos_token="[SEP]")
    folder = tmp_path_factory.mktemp("tiny_llama")
    return str(save_tiny_llama(folder, words=words, num_hidden_layers=6))


QUICK = {"dolly_small_dp", "quickstart", "sst2_cpu", "glue_sst2", "glue_sst2_dp", "glue_mnli_dp"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in EXPERIMENTS]
)
def test_every_experiment_runs_a_round(name, tiny_folder, tiny_language, tmp_path):
    asked = plan(one_job(name))[0].config
    if name != "quickstart" and not (DATA and (Path(DATA) / asked.task.name).is_dir()):
        pytest.skip("FFALORA_DATA has no such rows")
    data = [] if name == "quickstart" else [f"paths.data={DATA}"]
    model = ["model=auto", f"model.source={tiny_folder}"]
    if asked.task.kind == "causal_lm":  # an answer of GSM8K fits in 64 tokens, or is left out
        model = ["model=smollm2", f"model.source={tiny_language}", "task.max_length=64"]
    summary, seen = run(*one_job(name), *model, "debug=tiny", f"paths.runs={tmp_path}", *data)
    assert [r.round for r in seen.records] == [0, 1]
    folder = Path(summary["run_dir"])
    for file in ("manifest.json", "config.yaml", "rounds.jsonl", "summary.json"):
        assert (folder / file).is_file()
    private = asked.privacy.unit != "none"
    assert private or not name.endswith("_dp")
    assert (folder / "privacy.json").is_file() == private
    assert ("privacy/epsilon_spent" in summary["final"]) == private
    if private:
        statement = json.loads((folder / "privacy.json").read_text())
        clients = statement["clients"]  # of hundreds, their quartiles
        if isinstance(clients, dict):
            spent = clients["epsilon_spent"]["most"]
        else:
            spent = max(client["epsilon_spent"] for client in clients)
        assert spent <= asked.privacy.epsilon_target + 1e-9
        claim = statement["epsilon_max"]["spent"]  # of a text on several clients: never their sum
        assert spent <= claim < 2 * spent
        assert {"pld", "rdp"} == set(statement["largest"]["epsilon"])


def kind_of(task: str) -> str:
    return plan([f"task={task}", "partition=iid"])[0].config.task.kind


OPTIONS = {  # what an option needs besides the defaults to mean anything
    "method": {},
    "partition": {"severe": ["task=sst2"], "mild": ["task=sst2"], "natural": None},
    "privacy": {"client": ["federation.weights=uniform"]},
    "federation": {},
    "engine": {},
    "task": {
        name: ["privacy=none"] if kind_of(name) == "text_classification" else None
        for name in catalogue.options("task")
    },
}
CHOICES = [
    (group, option, needs.get(option, []))
    for group, needs in OPTIONS.items()
    for option in catalogue.options(group)
    if needs.get(option, []) is not None  # natural, and other kinds: of the experiments
]


TASKS = {"bbc_news", "trec", "banking77", "mnli", "cola"}  # of the others' kinds


@pytest.mark.parametrize(
    ("group", "option", "needs"),
    [
        pytest.param(*c, marks=pytest.mark.slow if c[0] == "task" and c[1] not in TASKS else ())
        for c in CHOICES
    ],
    ids=lambda v: str(v)[:20],
)
def test_every_option_runs_a_round(group, option, needs, tiny_folder, tmp_path):
    packaged = (group != "task" and "task=sst2" not in needs) or option == "bbc_news"
    needs = [*needs, *([] if group == "privacy" else ["privacy.accountant=rdp"])]
    if not packaged and DATA is None:
        pytest.skip("FFALORA_DATA is not set")
    summary, seen = run(
        f"{group}={option}",
        "model=auto",
        f"model.source={tiny_folder}",
        "debug=tiny",
        f"paths.runs={tmp_path}",
        *needs,
        *([] if packaged else [f"paths.data={DATA}"]),
    )
    assert [r.round for r in seen.records] == [0, 1]
    assert 0.0 <= summary["final"]["eval/loss"] < 10.0
    assert summary["final"]["comm/uplink_bytes_total"] > 0


REAL = [
    "federation.rounds=2",
    "federation.local_steps=2",
    "federation.local_batch_size=8",
    "task.max_length=32",
    "evaluation.max_examples=64",
    "privacy.accountant=rdp",
]


@pytest.mark.parametrize("method", ["ffa_lora", "fedsa_lora"])
def test_the_same_config_twice_gives_the_same_bits(method, tmp_path):
    """Real weights, real texts, privacy on; adapters, metrics, ledgers equal to the bit."""
    summaries, folders = [], []
    for part in ("one", "two"):
        summary, _ = run(*REAL, f"method={method}", f"paths.runs={tmp_path / part}")
        summaries.append(summary)
        folders.append(Path(summary["run_dir"]))
    first, second = (load_file(f / "adapter.safetensors") for f in folders)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[n], second[n]) for n in first)
    untimed = [
        {k: v for k, v in s["final"].items() if not k.startswith("time/")} for s in summaries
    ]
    assert untimed[0] == untimed[1]
    ledgers = [(f / "privacy_ledger.jsonl").read_text() for f in folders]
    assert ledgers[0] == ledgers[1]
    kept = [f / "clients.safetensors" for f in folders]
    assert all(k.is_file() for k in kept) == (method == "fedsa_lora")
    if method == "fedsa_lora":
        own, again = load_file(kept[0]), load_file(kept[1])
        assert all(torch.equal(own[n], again[n]) for n in own)
        assert len(torch.unique(next(v for n, v in own.items() if "lora_b" in n), dim=0)) == 3
    assert any(v.abs().sum() > 0 for n, v in first.items() if n.endswith("lora_b")) == (
        method == "ffa_lora"  # FedSA's B stays with its clients
    )


def test_a_finished_run_is_not_repeated(tiny_folder, tmp_path):
    overrides = [
        "model=auto",
        f"model.source={tiny_folder}",
        "debug=tiny",
        f"paths.runs={tmp_path}",
    ]
    first, _ = run(*overrides)
    second, seen = run(*overrides)
    third, _ = run(*overrides, again=True)
    assert not first["already_done"] and second["already_done"] and not third["already_done"]
    assert seen.records == []
    assert second["run_dir"] == first["run_dir"] != third["run_dir"]


def test_records_say_where_numbers_come_from(tiny_folder, tmp_path):
    summary, _ = run(
        "model=auto", f"model.source={tiny_folder}", "debug=tiny", f"paths.runs={tmp_path}"
    )
    records = read_run(summary["run_dir"])
    manifest = records.manifest
    assert manifest["signature"] in summary["run_dir"]
    assert manifest["versions"]["torch"] == torch.__version__.split("+")[0] or manifest["versions"]
    assert set(manifest["data_fingerprints"]) == {"train", "holdout"}
    assert manifest["seeds"] == {"run": 0, "partition": 0, "adapter": 0, "head": 0}
    assert sum(manifest["client_sizes"]) == manifest["data"]["train"]["rows"]
    rounds = [
        json.loads(x) for x in Path(summary["run_dir"], "rounds.jsonl").read_text().splitlines()
    ]
    assert [r["round"] for r in rounds] == [0, 1]
    last = rounds[-1]["metrics"]
    assert last["comm/uplink_bytes"] == sum(
        row["bytes"]["adapter"] * 3 + row["bytes"]["framing"] * 3
        for row in lines_of(summary["run_dir"], "communication.jsonl")
        if row["direction"] == "uplink"
    )
    # every client: rank 2, q and v of two layers of 16, fp32
    assert last["comm/adapter_bytes"] == 3 * 4 * 2 * 16 * 4
    assert {"client", "examples", "loss", "clipped", "nonfinite", "epsilon_spent"} == set(
        rounds[-1]["clients"][0]
    )


def lines_of(folder, file):
    return [json.loads(line) for line in Path(folder, file).read_text().splitlines()]


@pytest.mark.parametrize(
    ("method", "adapter"), [("lora", 294_912), ("ffa_lora", 147_456)], ids=["lora", "ffa"]
)
def test_minilm_adapter_bytes(method, adapter, tmp_path):
    """Golden: q, v, r = 8, fp32, per client and direction."""
    summary, _ = run(*REAL, f"method={method}", "privacy=none", f"paths.runs={tmp_path}")
    rows = lines_of(summary["run_dir"], "communication.jsonl")
    up = [r["bytes"]["adapter"] for r in rows if r["direction"] == "uplink"]
    down = [r["bytes"]["adapter"] for r in rows if r["direction"] == "downlink" and r["round"] > 1]
    assert set(up) == set(down) == {adapter}
