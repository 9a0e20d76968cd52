"""How many clients there are, what they are called, and what a typed number leaves out."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ffalora_cli.cli.verbs.partition import closing, lines
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.errors import ConfigError
from ffalora_cli.experiment.population import client_table, populate
from ffalora_cli.experiment.rounds import named_lines
from ffalora_cli.types import RoundRecord

SIZES = {"north": 30, "east": 20, "south": 10}


@pytest.fixture
def towns(tmp_path: Path) -> list[str]:
    """A task whose rows name their clients, persons and, twice, a text."""
    rows = [
        {"text": f"{town} {i // 2}", "label": i % 2, "town": town, "who": f"{town} {i % 5}"}
        for town, size in SIZES.items()
        for i in range(size)
    ]
    (tmp_path / "towns").mkdir()
    lines = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "towns" / "train.jsonl").write_text(lines)
    (tmp_path / "towns" / "validation.jsonl").write_text(lines)
    return [
        "task.name=towns",
        "task.text_columns=[text]",
        "task.classes=[no,yes]",
        "task.client_column=town",
        "task.splits={train: train, validation: validation}",
        "task.eval_split=validation",
        f"paths.data={tmp_path}",
    ]


def test_natural_takes_all_clients_of_the_data_and_keeps_their_names(towns: list[str]) -> None:
    config = plan([*towns, "partition=natural"])[0].config
    assert config.federation.num_clients is None
    table = client_table(config)
    assert table.names == ("east", "north", "south")
    assert table.sizes.tolist() == [20, 30, 10] and table.notes == ()
    text = "\n".join(lines(table))
    assert "  north        30        15 " in text and "    all        60        30 " in text


def test_a_typed_number_is_kept_and_what_it_leaves_out_is_said(towns: list[str]) -> None:
    config = plan([*towns, "partition=natural", "federation.num_clients=2"])[0].config
    table = client_table(config)
    assert table.names == ("east", "north")
    (note,) = table.notes
    assert note.startswith(
        "federation.num_clients=2 leaves out 1 of the 3 clients of the data, 10 of 60 training "
        "rows (17 %)"
    )
    said = " ".join(" ".join(closing(table, config, Path("p.png"))).split())
    assert note in said
    with pytest.raises(ConfigError, match=r"set federation\.num_clients=3 or fewer"):
        client_table(plan([*towns, "partition=natural", "federation.num_clients=4"])[0].config)


def test_null_is_three_clients_elsewhere_and_one_identity(towns: list[str]) -> None:
    left_open, typed = (plan([*towns, f"federation.num_clients={n}"])[0] for n in ("null", 3))
    assert left_open.config.federation.num_clients == 3
    assert left_open.signature == typed.signature
    assert client_table(left_open.config).names is None
    natural = [
        plan([*towns, "partition=natural", f"federation.num_clients={n}"])[0] for n in (2, 3)
    ]
    assert natural[0].signature != natural[1].signature


@pytest.mark.parametrize(
    "settings, words",
    [
        (["federation.cohort_sampling=fixed", "federation.cohort_size=4"], "cohort_size=4 exceeds"),
        (["federation.min_clients=4"], "min_clients=4 should be"),
        (
            ["federation.combination=krum", "federation.assumed_bad=1"],
            "krum of 3 clients bears at most 0",
        ),
    ],
)
def test_rules_on_the_number_hold_once_the_data_has_told_it(towns, settings, words) -> None:
    config = plan([*towns, "partition=natural", *settings])[0].config
    with pytest.raises(ConfigError, match=words):
        client_table(config)


def test_units_are_shown_where_rows_share_one(towns: list[str]) -> None:
    texts = client_table(plan(towns)[0].config)
    assert texts.units.sum() == 30 and texts.sizes.sum() == 60  # no text on two clients
    assert "units" in lines(texts)[0]
    rows = client_table(plan([*towns, "privacy=paper"])[0].config)
    assert np.array_equal(rows.units, rows.sizes) and "units" not in lines(rows)[0]
    column = ["privacy.unit=column", "task.unit_column=who", "partition.keep_together=who"]
    people = client_table(plan([*towns, *column])[0].config)
    assert people.units.sum() == 15


def test_lines_of_clients_have_their_names_at_home() -> None:
    parts = SimpleNamespace(names=("east", "north"))
    record = RoundRecord(1, {"eval/accuracy": 0.5}, ({"client": 1, "loss": 0.1},))
    named = named_lines(parts, record)
    assert named.clients == ({"client": 1, "loss": 0.1, "name": "north"},)
    assert named.metrics == record.metrics  # what a tracker is sent
    parts.names = None
    assert named_lines(parts, record) is record


def test_persons_are_dealt_whole(towns: list[str]) -> None:
    from ffalora_cli.data.dataset import training_rows

    settings = [*towns, "task.unit_column=who", "partition.keep_together=who"]
    config = plan(settings)[0].config
    rows = training_rows(config.task, config.paths.data, "who")
    clients = populate(config, rows).clients
    owner = np.empty(60, dtype=int)
    owner[clients.rows] = np.repeat(np.arange(3), clients.sizes)
    assert rows.unit_keys is not None
    for key in np.unique(rows.unit_keys):
        assert len(set(owner[rows.unit_keys == key])) == 1


@pytest.mark.parametrize(
    "settings, words",
    [
        (["partition.keep_together=whom", "task.unit_column=who"], "did you mean 'who'"),
        (["partition.keep_together=who"], "not one of row, text"),
        (["privacy.unit=column"], "task.unit_column is null"),
        (["privacy.rows_per_unit=0"], "1 or more"),
        (["privacy=paper", "privacy.rows_per_unit=2"], "no effect under privacy.unit=row"),
        (["privacy=none", "privacy.rows_per_unit=2"], "no effect while privacy.unit is none"),
        (["federation.num_clients=0"], "1 or more, or null"),
    ],
)
def test_words_that_mean_nothing_are_refused_before_any_data(towns, settings, words) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        plan([*towns, *settings])
    assert "\n" not in str(caught.value)


def test_a_unit_column_must_be_there_and_full(towns: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no column 'whom' .*'who'"):
        client_table(plan([*towns, "task.unit_column=whom"])[0].config)
    file = tmp_path / "towns" / "train.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows[4:7]:
        row["who"] = None
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(
        ConfigError, match=r"train.jsonl, line 5: who missing or empty, in 3 of 60 rows"
    ):
        client_table(plan([*towns, "task.unit_column=who"])[0].config)
