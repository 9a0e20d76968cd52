"""What several runs on the same rows spend together, against the accountants on their histories."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.privacy.ledger import PrivacyLedger, charged
from ffalora_cli.records.files import read_json_lines
from ffalora_cli.records.run_directory import LEDGER
from ffalora_cli.report.runs.selection import select_runs
from ffalora_cli.report.runs.spent_together import sentences, together
from ffalora_cli.report.table.compare import compare
from ffalora_cli.report.table.notes import notes
from ffalora_cli.report.table.rows import Question
from tests.made_runs import write_run

NOISE = ([1.0, 1.3], [1.1, 1.2], [2.0, 0.9])  # of two clients in three runs
RATE, STEPS = [0.02, 0.05], 300
FACTS = {"data_fingerprints": {"train": "0123456789abcdef"}}


def released(folder, seed, noise, *overrides, **statement):
    """A run of two clients that took ``STEPS`` steps each, as its ledger has it."""
    said = {"unit": "text", "num_clients": 2, "clients": [{"epsilon_planned": 6.0}]} | statement
    said["epsilon_max"] = {"planned": 6.0, "spent": 6.0} | said.pop("epsilon_max", {})
    run = write_run(
        folder, [f"seed={seed}", *overrides], [0.2, 0.5], statement=said, extra=FACTS
    )  # fmt: skip
    ledger = PrivacyLedger(np.array(noise), np.array(RATE), run / LEDGER)
    ledger.charge(1, [0, 1], STEPS)
    return run


def three(folder, *overrides, **statement):
    """Runs with the three noises, whose splits follow their seeds where nothing else is said."""
    for seed, noise in enumerate(NOISE):
        released(folder, seed, noise, *overrides, **statement)
    return select_runs(folder, ())


def history(client, noises=NOISE):
    return [(noise[client], RATE[client], STEPS) for noise in noises]


def test_runs_with_the_same_clients_compose_client_by_client(tmp_path):
    (found,) = together(three(tmp_path, "partition.seed=7"))
    wanted = max(Accountant("pld", 1e-5).epsilon(history(client)) for client in (0, 1))
    assert (found.runs, found.epsilon) == (3, pytest.approx(wanted, rel=1e-9))
    alone = max(
        Accountant("pld", 1e-5).epsilon([step]) for client in (0, 1) for step in history(client)
    )
    assert alone < found.epsilon < 3 * alone  # neither one run nor a sum of epsilons
    said = notes(compare(select_runs(tmp_path, ()), Question()))
    (line,) = [text for text in said if "rows together" in text]
    assert line.startswith("3 private runs on the same rows together: epsilon ")
    assert "any text, add/remove one, delta 1e-5, Poisson sampling, PLD accountant" in line


@pytest.mark.parametrize(("runs", "name"), [(3, "pld"), (5, "rdp")])
def test_runs_with_other_clients_are_bounded_whoever_had_the_row(tmp_path, runs, name):
    """Three runs have 8 such rows, each composed; five have 32, which RDP bounds."""
    noises = (*NOISE, [1.5, 1.5], [0.8, 1.9])[:runs]
    for seed, noise in enumerate(noises):
        released(tmp_path, seed, noise)
    (found,) = together(select_runs(tmp_path, ()))
    assert "clients differ" in found.how and name.upper() in found.how
    each = [
        Accountant(name, 1e-5).epsilon(
            [(noise[c], RATE[c], STEPS) for noise, c in zip(noises, who, strict=True)]
        )
        for who in product((0, 1), repeat=runs)
    ]
    assert found.epsilon >= max(each) * (1 - 1e-9)
    if name == "pld":
        assert found.epsilon == pytest.approx(max(each), rel=1e-9)


@pytest.mark.parametrize(
    ("overrides", "statement"),
    [
        ((), {"epsilon_max": {"planned": 7.7}}),
        # Said, where another client's own claim is larger: 6.0 is that of the worst client.
        (("partition.seed=7",), {"several_clients": True}),
    ],
)
def test_units_on_several_clients_are_bounded_by_one_on_all(tmp_path, overrides, statement):
    (found,) = together(three(tmp_path, *overrides, **statement))
    assert found.epsilon == pytest.approx(
        Accountant("pld", 1e-5).epsilon(history(0) + history(1)), rel=1e-9
    )
    assert "every client" in found.how


def test_a_column_is_no_unit_but_its_values_are(tmp_path):
    (found,) = together(three(tmp_path, "partition.seed=7", unit="column"))
    assert found.how.startswith("any unit, add/remove one")


def test_clients_of_other_splits_are_other_units(tmp_path):
    """Removing a client of one run takes rows from several of another: no sum bounds that."""
    runs = three(tmp_path, unit="client")
    (found,) = together(runs)
    assert found.epsilon is None and "clients with different rows" in found.how
    (line,) = sentences(runs)
    assert "not stated" in line


def test_what_is_not_recorded_is_said_and_not_guessed(tmp_path):
    one, two = (released(tmp_path, seed, NOISE[seed], "partition.seed=7") for seed in (0, 1))
    (two / LEDGER).unlink()
    (line,) = sentences(select_runs(tmp_path, ()))
    assert "not stated (not all of their privacy ledgers are here)" in line
    (one / LEDGER).write_text('{"schema": 1}\n')
    assert "not stated" in sentences(select_runs(tmp_path, ()))[0]


def test_other_rows_and_other_units_are_other_sums(tmp_path):
    for seed, noise in enumerate(NOISE):
        released(tmp_path, seed, noise, "partition.seed=7", unit=("text", "row", "example")[seed])
    (found,) = together(select_runs(tmp_path, ()))  # example is the old name of row
    assert (found.runs, found.how.split(",")[0]) == (2, "any row")
    released(tmp_path, 9, NOISE[0], "partition.seed=7")
    assert [group.runs for group in together(select_runs(tmp_path, ()))] == [2, 2]


def test_a_ledger_is_read_as_it_was_charged(tmp_path):
    path = tmp_path / LEDGER
    ledger = PrivacyLedger(np.array([1.0, 1.0, 2.0]), np.array([0.1, 0.1, 0.1]), path)
    for round, clients in ((1, [0, 1, 2]), (2, [2]), (3, [0, 2])):
        ledger.charge(round, clients, 5)
    rows = read_json_lines(path)[0]
    assert charged(rows, 3) == [(1.0, 0.1, 10), (1.0, 0.1, 5), (2.0, 0.1, 15)]
    assert charged(rows, 3, until=2) == [(1.0, 0.1, 5), (1.0, 0.1, 5), (2.0, 0.1, 10)]
    for bad in ([], [{"noise_multiplier": 1.0}], [rows[0], {"round": 1}]):
        with pytest.raises(ValueError, match="not a privacy ledger"):
            charged(bad, 3)
    with pytest.raises(ValueError, match="not a privacy ledger"):
        charged(rows, 2)
