"""Every way to say which runs are meant, and what is answered when none is."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ffalora_cli.cli.main import main
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.records.reading import read_run
from ffalora_cli.report.page.page import _state
from ffalora_cli.report.runs.selection import filters, select_runs, spelled
from tests.made_runs import made_run, write_run


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two methods x two seeds, a tagged one without privacy, and an unfinished one."""
    runs = tmp_path_factory.mktemp("runs")
    for method in ("lora", "ffa_lora"):
        for seed in (0, 1):
            write_run(runs, [f"method={method}", f"seed={seed}", "debug=smoke"], [0.1, 0.2])
    write_run(runs, ["privacy=none", "tracking.tags=[try,two]", "partition=iid"], [0.1])
    write_run(runs, ["experiment=quickstart", "seed=7"], [0.1], finished=False)
    return runs


def names(root, *selectors) -> list[str]:
    return [run.path.name for run in select_runs(root, selectors)]


def test_nothing_named_is_all_that_is_finished(root) -> None:
    assert len(names(root)) == 5
    assert len(names(root, "*")) == 6  # a glob means what it says


@pytest.mark.parametrize(
    ("selectors", "count"),
    [
        (["method=lora"], 2),
        (["method=lora,ffa_lora", "seed=0"], 3),
        (["method.name=lora", "seed=1"], 1),
        (["privacy=none"], 1),
        (["partition=iid"], 1),
        (["partition.dirichlet_alpha=0.50"], 5),
        (["privacy.epsilon_target=null"], 1),
        (["federation.rounds=2"], 4),
        (["tag=two"], 1),
        (["debug=smoke"], 4),
        (["experiment=quickstart"], 1),
        (["bbc_news-lora"], 2),
        (["bbc_news-lora", "seed=0"], 1),
        (["bbc_news-lora*", "*ffa_lora*"], 6),
    ],
)
def test_selectors(root, selectors, count) -> None:
    assert len(names(root, *selectors)) == count


def test_folders_globs_of_paths_and_signatures(root, tmp_path, monkeypatch) -> None:
    first = names(root)[0]
    signature = first.rsplit("-", 1)[1]
    monkeypatch.chdir(tmp_path)
    assert names("runs", str(root / first)) == [first]
    assert len(names("runs", str(root))) == 6
    assert len(names("runs", f"{root}/*-lora-*")) == 2
    assert names(root, signature[:6]) == [first]
    assert names(root, first, first, signature) == [first]  # named twice is one


@pytest.mark.parametrize(
    ("selector", "words"),
    [
        ("method=lorra", "did you mean 'lora'?"),
        ("metod=lora", "did you mean 'method'?"),
        ("epsilon_target=6", "did you mean 'privacy.epsilon_target'?"),
        ("seed=9", "there is 0, 1, 7"),
        ("tag=none", "did you mean"),
        ("experiment=table1", "matches none of 6 runs"),
        ("bbc_nws-lora", "did you mean 'bbc_news-lora"),
        ("*nothing*", "is no run, folder or beginning of a name"),
    ],
)
def test_what_is_not_there_is_one_line_with_the_nearest(root, selector, words) -> None:
    with pytest.raises(ConfigError) as caught:
        select_runs(root, [selector])
    text = str(caught.value)
    assert words in text or selector == "tag=none"
    assert "\n" not in text and len(text) <= 250


def test_a_fork_is_no_run_of_the_experiment(tmp_path) -> None:
    write_run(tmp_path, ["experiment=quickstart"], [0.1])
    write_run(
        tmp_path, ["experiment=quickstart", "seed=4"], [0.1], extra={"forked_from": {"run": "x"}}
    )
    assert len(select_runs(tmp_path, ["experiment=quickstart"])) == 1
    assert len(select_runs(tmp_path, ["method=ffa_lora"])) == 2


def test_a_damaged_run_is_left_out_and_named(root, tmp_path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(root, runs)
    first, second = sorted(runs.iterdir())[:2]
    (first / "config.yaml").write_text("a: [")
    (second / "manifest.json").write_text("{}")
    said: list[str] = []
    found = select_runs(runs, ["*"], said.append)
    assert len(found) == 4 and not {first, second} & {run.path for run in found}
    assert [first.name in said[0], second.name in said[1], len(said)] == [True, True, 2]
    with pytest.raises(ConfigError, match=r"config\.yaml: damaged"):
        select_runs(runs, [first.name], said.append)
    with pytest.raises(ConfigError, match=r"config\.yaml: damaged"):
        select_runs(runs)


def test_an_empty_folder_says_so(tmp_path) -> None:
    with pytest.raises(ConfigError, match="holds no runs"):
        select_runs(tmp_path)


def test_a_run_of_a_sweep_knows_its_own_choices(tmp_path) -> None:
    sweep = ["ffalora", "run", "-m", "experiment=quickstart", "method=lora,ffa_lora", "seed=0"]
    write_run(tmp_path, ["method=lora"], [0.1], extra={"overrides": None, "command": sweep})
    assert len(select_runs(tmp_path, ["experiment=quickstart"])) == 1  # the same for all jobs
    with pytest.raises(ConfigError):
        select_runs(tmp_path, ["federation=short"])


def test_values_are_spelled_as_they_are_typed() -> None:
    values = (None, True, 6.0, 1e-5, 0.1 + 0.2, ("a", "b"), {"k": 1.0})
    assert [spelled(v) for v in values] == [
        "null", "true", "6", "1e-05", "0.30000000000000004", "[a,b]", "{k:1}",
    ]  # fmt: skip


def test_conditions_as_filters_for_logged_runs() -> None:
    words = ["method=lora,ffa_lora", "partition=severe", "seed=0", "tag=a,b"]
    assert filters(words) == {
        "method.name": ["lora", "ffa_lora"],
        "partition.label_mix": ["severe"],
        "seed": ["0"],
        "tags": {"$in": ["a", "b"]},
    }
    assert filters(["tag=a", "partition=iid"]) == {"tags": "a", "partition.name": ["iid"]}
    for wrong in ("runs/x", "experiment=table1", "sed=0"):
        with pytest.raises(ConfigError):
            filters([wrong])


@pytest.mark.parametrize("finished", [True, False])
def test_one_run_is_not_1_runs(finished, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    made_run(tmp_path / "runs", ["seed=3"], [0.2, 0.4], finished=finished)
    words = ["compare nope", "compare seed=4", "plot runs --y nope", "plot runs --x seconds --y lr"]
    words += ["report runs"] if finished else ["compare", "compare runs", "plot runs --kind pareto"]
    for typed in words:
        main(typed.split())
        said = "".join(capsys.readouterr())
        assert re.search(r"\b1 run\b", said), said
    assert "after 1 round," in _state(replace(read_run(next(Path("runs").glob("*"))), summary={}))
