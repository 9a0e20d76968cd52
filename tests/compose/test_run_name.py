"""Names of runs: what was typed can be told from them, and a run is found whatever its name."""

from __future__ import annotations

import json
import re

import pytest

from ffalora_cli.cli.main import main
from ffalora_cli.compose.jobs import plan
from ffalora_cli.records.run_directory import open_run, run_folder
from ffalora_cli.sweep.record import sweep_digest


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("", "bbc_news-ffa_lora-s0"),
        (
            "method=lora partition.dirichlet_alpha=0.3 privacy.epsilon_target=6 seed=1",
            "bbc_news-lora-alpha0.3-eps6-s1",
        ),
        (
            "experiment=quickstart privacy=none tracking=wandb engine.device=cpu",
            "bbc_news-ffa_lora-quickstart-no_privacy-s0",  # without what changes no number
        ),
        (
            "adapter.rank=4 adapter.targets=value federation.eval_clients=true",
            "bbc_news-ffa_lora-rank4-targets_value-eval_clients-s0",
        ),
        ("model=auto model.source=/home/me/tiny", "bbc_news-ffa_lora-auto-source_tiny-s0"),
        ("federation.server_optimizer.beta2=0.99", "bbc_news-ffa_lora-beta2_0.99-s0"),
        ("adapter.alpha=16 head.seed=3", "bbc_news-ffa_lora-lora_alpha16-head_seed3-s0"),
        ("name=mine", "mine"),
    ],
)
def test_the_name_says_what_was_typed(typed, name):
    assert plan(typed.split())[0].config.name == name


def test_a_long_name_gives_up_its_longest_words():
    typed = ["model=gpt2", "adapter.targets=query_value", "adapter.init=orthogonal"]
    typed += ["partition.keep_together=row", "adapter.rank=4", "privacy.calibration=shared"]
    name = plan(typed)[0].config.name
    assert len(name) <= 60 and re.fullmatch(r"bbc_news-ffa_lora-gpt2-.*rank4-s0", name)


def begun(runs, name, job, *files):
    with open_run(runs, name, job.signature).claim() as directory:
        for file in ("manifest.json", *files):
            (directory.path / file).write_text(json.dumps({"schema_version": 1}))
    return directory.path


def test_a_run_is_found_by_its_signature_whatever_its_name(tmp_path):
    where = f"paths.runs={tmp_path}"
    (job,), (same,) = plan([where]), plan([where, "method=ffa_lora", "adapter.rank=8"])
    assert job.signature == same.signature and job.config.name != same.config.name
    former = begun(tmp_path, "bbc_news-minilm-ffa_lora", job, "summary.json")
    begun(tmp_path, "another", job)
    assert run_folder(job) == run_folder(same) == former
    assert open_run(tmp_path, job.config.name, job.signature, named=False).finished
    assert run_folder(plan([where, "name=mine"])[0]).name == f"mine-{job.signature}"
    assert run_folder(plan([where, "seed=1"])[0]).name.startswith("bbc_news-ffa_lora-s1-")
    again = open_run(tmp_path, job.config.name, job.signature, again=True, named=False)
    assert again.path.name == f"{job.config.name}-{job.signature}"  # a folder of its own
    own = begun(tmp_path, job.config.name, job)
    assert run_folder(job) == own  # its own name comes first


def test_what_ran_under_another_name_is_not_run_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for job in plan(["seed=0,1"], sweep=True):
        begun("runs", "bbc_news-minilm-ffa_lora", job)
    assert main(["validate", "-m", "seed=0,1,2", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["jobs"]
    assert [row["state"] for row in found] == ["stopped", "stopped", "new"]


def test_a_sweep_is_the_same_however_it_was_typed():
    first, other = plan(["seed=0,1"], sweep=True), plan(["method=ffa_lora", "seed=0,1"], sweep=True)
    assert sweep_digest(first) == sweep_digest(other)
    assert sweep_digest(plan(["name=new", "seed=0,1"], sweep=True)) != sweep_digest(first)
