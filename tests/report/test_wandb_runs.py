"""Runs read back from W&B are the runs that were logged.

W&B's own client asks a stand-in server, which answers from the files that wandb wrote offline.
"""

from __future__ import annotations

import json

import pytest

from ffalora_cli.cli.main import main
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.records.leaving import metric_may_leave, released
from ffalora_cli.records.reading import read_run
from ffalora_cli.report.wandb import runs
from tests.tiny import save_tiny_bert
from tests.trackers import small_run, wandb_offline
from tests.wandb_server import Server, node


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """Folders of a private run and of a public one of another method; their nodes."""
    root = tmp_path_factory.mktemp("runs")
    model = save_tiny_bert(root / "model")
    choices = ([], ["privacy=none", "method=lora", "seed=1"])
    folders = [small_run(model, root / "runs", *choice) for choice in choices]
    with wandb_offline(root / "wandb"):
        for folder in folders:
            assert main(["sync", str(folder), "tracking.tags=[mine]"]) == 0
    nodes = [node(sorted(f.glob("wandb/offline-run-*/run-*.wandb"))) for f in folders]
    return {folder.name: folder for folder in folders}, nodes


@pytest.fixture
def server(logged, tmp_path):
    alien = {**logged[1][0], "name": "alien", "config": json.dumps({"lr": {"value": 1}})}
    with wandb_offline(tmp_path) as patch:
        served = Server([*logged[1], alien])
        patch.delenv("WANDB_MODE")
        patch.setenv("WANDB_BASE_URL", served.url)
        patch.setenv("WANDB_API_KEY", "k" * 40)
        yield served
        served.shutdown()
        served.server_close()


def test_the_verb_prints_the_table_of_the_folders(logged, server, capsys) -> None:
    def table(*words: str) -> dict:
        assert main(["compare", *words, "--by", "method", "--format", "json"]) == 0
        return json.loads(capsys.readouterr().out)

    here, there = table(*map(str, logged[0].values())), table("--from", "wandb", "me/ffalora")
    assert [row["settings"] for row in there["rows"]] == [
        {"method": "lora"},
        {"method": "ffa_lora"},
    ]
    for row in (*there["rows"], *here["rows"]):
        del row["run_seconds"], row["round_seconds"]  # stay at home, or are told to the minute
    assert there == here
    only = table("--from", "wandb", "me/ffalora", "method=lora", "tag=mine")
    assert [row["runs"] for row in only["rows"]] == [there["rows"][0]["runs"]]
    assert main(["compare", "--from", "wandb", "me/ffalora", "runs"]) == 2
    assert main(["compare", "--from", "wandb", "me/ffalora", "method=lorra"]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_everything_that_comparison_needs_comes_back(logged, server) -> None:
    found = runs.fetch("me/ffalora", {})
    assert [run.path.name for run in found] == sorted(logged[0])
    for run in found:
        here = read_run(logged[0][run.path.name])
        unit = here.config["privacy"]["unit"]
        assert [r.round for r in run.rounds] == [r.round for r in here.rounds] == [0, 1, 2, 3]
        for there, own in zip(run.rounds, here.rounds, strict=True):
            assert there.metrics == {
                k: v for k, v in own.metrics.items() if metric_may_leave(k, unit)
            }
        for key in ("signature", "ffalora", "device", "versions", "model_fingerprint"):
            assert run.manifest[key] == here.manifest[key]
        evals = here.manifest["data"]["evals"]
        assert run.manifest["data"]["evals"] == {
            name: {} if unit != "none" else {"fingerprint": rows["fingerprint"]}
            for name, rows in evals.items()  # a hold-out, which is hashed from all training rows
        }
        for key in ("status", "headline", "value", "rounds", "best", "ended"):
            assert run.summary[key] == released(here).summary[key]
        assert run.finished and not run.cut_short
        changed = {"paths", "model", "tracking"}
        assert {k: v for k, v in run.config.items() if k not in changed} == {
            k: v for k, v in here.config.items() if k not in changed
        }


def test_the_claim_of_a_private_run_comes_back_whole(logged, server) -> None:
    for run in runs.fetch("me/ffalora", {}):
        here = read_run(logged[0][run.path.name]).privacy
        if here is None:
            assert run.privacy is None
            continue
        for key in ("unit", "relation", "delta", "accountant", "sampling", "epsilon_target"):
            assert run.privacy[key] == here[key]
        assert run.privacy["epsilon_max"] == pytest.approx(here["epsilon_max"])


def test_what_leaves_has_no_path_no_client_and_no_hash_of_private_rows(logged) -> None:
    for folder, answer in zip(logged[0].values(), logged[1], strict=True):
        here = read_run(folder)
        text = json.dumps(answer)
        assert str(folder.parent) not in text and "/tmp" not in text
        assert '"sizes"' not in text and "client_sizes" not in text and "command" not in text
        private = here.config["privacy"]["unit"] != "none"
        fingerprint = here.manifest["data_fingerprints"]["train"]
        assert (fingerprint in text) == (not private)
        assert (here.manifest["identity"]["data"]["clients"] in text) == (not private)
        assert ("train/loss" in text) == (not private)


def test_filters_go_to_wandb_and_settings_are_compared_here(logged, server) -> None:
    names = [run.path.name for run in runs.fetch("me/ffalora", {"method.name": "lora"})]
    assert names == [name for name in sorted(logged[0]) if "-lora-" in name]
    both = runs.fetch("me/ffalora", {"tags": "mine", "seed": ["0", 1.0]})
    assert len(both) == 2
    asked = [v for query, v in server.asked if "query Runs(" in query]
    assert json.loads(asked[-1]["filters"]) == {"tags": "mine"}
    assert {v["cursor"] for v in asked} == {None, "2"}  # both pages


def test_a_round_that_came_twice_is_there_once(logged, server) -> None:
    first = server.runs[0]
    first = {**first, "history": [*first["history"], first["history"][-1]], "historyLineCount": 5}
    server.runs[0] = first
    found = {run.path.name: run for run in runs.fetch("me/ffalora", {})}
    assert [r.round for r in found[first["name"]].rounds] == [0, 1, 2, 3]


def test_an_unfinished_run_has_no_summary_and_non_finite_numbers_are_nan(logged, server) -> None:
    row = {**json.loads(server.runs[0]["history"][0]), "eval/accuracy": "NaN"}
    server.runs[0] = {
        **server.runs[0],
        "summaryMetrics": "{}",
        "history": [json.dumps(row)],
        "historyLineCount": 2,
    }
    found = {run.path.name: run for run in runs.fetch("me/ffalora", {})}
    run = found[server.runs[0]["name"]]
    assert not run.finished and run.cut_short
    assert run.rounds[0].metrics["eval/accuracy"] != run.rounds[0].metrics["eval/accuracy"]


@pytest.mark.parametrize(
    ("filters", "said"),
    [({"method.name": "fedavg"}, "none of 3 runs"), ({"federation.rounds": 99}, "none of 3 runs")],
)
def test_nothing_that_fits_is_one_line(server, filters, said) -> None:
    with pytest.raises(ConfigError, match=said):
        runs.fetch("me/ffalora", filters)


def test_no_account_is_one_line(tmp_path) -> None:
    with wandb_offline(tmp_path) as patch:
        patch.delenv("WANDB_MODE")
        with pytest.raises(ConfigError, match=r"no API key.*wandb login"):
            runs.fetch("me/ffalora", {})
