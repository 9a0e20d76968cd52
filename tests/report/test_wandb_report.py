"""The W&B report, as it would be saved: serialised by wandb-workspaces, taken by a stand-in."""

from __future__ import annotations

import json

import pytest

from ffalora_cli.cli.main import main
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.report.wandb.saved import build_report, save_report
from tests.trackers import wandb_offline
from tests.wandb_server import Server

pytest.importorskip("wandb_workspaces")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # wandb-workspaces' own


@pytest.fixture
def server(tmp_path):
    with wandb_offline(tmp_path) as patch:
        served = Server([])
        patch.delenv("WANDB_MODE")
        patch.setenv("WANDB_BASE_URL", served.url)
        patch.setenv("WANDB_API_KEY", "k" * 40)
        yield served
        served.shutdown()
        served.server_close()


def test_the_saved_report_draws_accuracy_over_rounds_bytes_and_epsilon(server, capfd) -> None:
    url = save_report(build_report("me", "demo"))
    assert "/me/demo/reports/ffalora:-demo--Vmlldzo3" in url
    assert capfd.readouterr() == ("", "")  # only cli speaks to the user
    ((_, sent),) = [(q, v) for q, v in server.asked if "mutation upsertView(" in q]
    assert (sent["entityName"], sent["projectName"], sent["type"]) == ("me", "demo", "runs")
    blocks = json.loads(sent["spec"])["blocks"]
    (grid,) = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    (runs,) = grid["runSets"]
    assert runs["grouping"] == [{"section": "config", "name": "method.value.name"}]
    panels = [panel["config"] for panel in grid["panelBankSectionConfig"]["panels"]]
    drawn = [(panel["xAxis"], panel["metrics"], panel["groupBy"]) for panel in panels]
    assert drawn == [
        (axis, ["eval/accuracy"], "method.value.name")
        for axis in ("round", "comm/uplink_bytes_total", "privacy/epsilon_spent")
    ]
    text = json.dumps(blocks)
    assert "unit, relation, delta and accountant" in text  # no epsilon without them


def test_the_verb_saves_it_and_says_where(server, capfd) -> None:
    assert main(["report", "--wandb", "me/demo", "--metric", "mcc"]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("report    http") and out.count("\n") == 1 and err == ""
    assert "/me/demo/reports/" in out
    ((_, sent),) = [(q, v) for q, v in server.asked if "mutation upsertView(" in q]
    assert "eval/mcc" in sent["spec"] and "eval/accuracy" not in sent["spec"]
    assert main(["report", "--wandb", "demo"]) == 2
    assert "write ENTITY/PROJECT" in capfd.readouterr().err


def test_the_run_set_has_the_runs_and_groups_that_were_asked_for(server, capfd) -> None:
    typed = ["method=lora,ffa_lora", "privacy.epsilon_target=6", "tag=paper"]
    by = ["--by", "method,partition.dirichlet_alpha", "--metric", "accuracy,loss"]
    assert main(["report", "--wandb", "me/demo", *typed, *by]) == 0
    ((_, sent),) = [(q, v) for q, v in server.asked if "mutation upsertView(" in q]
    (grid,) = [b["metadata"] for b in json.loads(sent["spec"])["blocks"] if "metadata" in b]
    (runs,) = grid["runSets"]
    text = json.dumps(runs["filters"])
    for part in ('"method.value.name"', '["lora", "ffa_lora"]', "[6]", '["paper"]'):
        assert part in text
    groups = ["method.value.name", "partition.value.dirichlet_alpha"]
    assert [key["name"] for key in runs["grouping"]] == groups
    panels = [panel["config"] for panel in grid["panelBankSectionConfig"]["panels"]]
    assert [panel["metrics"] for panel in panels] == 3 * [["eval/accuracy"]] + 3 * [["eval/loss"]]
    assert main(["report", "--wandb", "me/demo", "runs"]) == 2
    assert "chosen by key=value" in capfd.readouterr().err
    assert main(["report", "--wandb", "me/demo", "--by", "metod"]) == 2
    assert "metod" in capfd.readouterr().err


def test_building_needs_no_account_and_saving_without_one_is_one_line(tmp_path) -> None:
    with wandb_offline(tmp_path) as patch:
        report = build_report("me", "demo", scores=["eval/f1"])
        assert [panel.y for panel in report.blocks[-1].panels] == 3 * [["eval/f1"]]
        patch.delenv("WANDB_MODE")
        with pytest.raises(ConfigError, match=r"W&B me/demo: no API key.*wandb login"):
            save_report(report)


def test_a_project_that_is_not_there_is_one_line(server, monkeypatch) -> None:
    answer = server.answer

    def without(query, variables):
        return {"project": None} if "ProjectInternalId" in query else answer(query, variables)

    monkeypatch.setattr(server, "answer", without)
    with pytest.raises(ConfigError, match=r"W&B me/gone: .*not found.*`wandb login`"):
        save_report(build_report("me", "gone"))


def test_an_absent_package_is_one_line(monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports", None)
    with pytest.raises(ConfigError, match=r"pip install 'ffalora\[trackers\]'"):
        build_report("me", "demo")
