from __future__ import annotations

import json

import pytest

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.privacy.accounting import accountant, disk_cache
from ffalora_cli.privacy.accounting.accountant import Accountant

CASE = ("pld", 1.0, 1e-5, 0.1, 100)


def noise_multiplier(name, target, delta, rate, steps):
    return Accountant(name, delta).noise_for(target, rate, steps)


def forget():
    accountant._noise.cache_clear()
    accountant._stored.cache_clear()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FFALORA_CACHE", str(tmp_path))
    forget()


def files(tmp_path):
    return sorted((tmp_path / "privacy").iterdir())


def test_the_answer_is_kept_to_the_bit(tmp_path):
    first = noise_multiplier(*CASE)
    (kept,) = files(tmp_path)
    assert json.loads(kept.read_text())["answer"] == first
    forget()
    assert noise_multiplier(*CASE) == first
    # proof that the file is read: what it says is what comes back
    changed = json.loads(kept.read_text()) | {"answer": 1.25}
    kept.write_text(json.dumps(changed))
    forget()
    assert noise_multiplier(*CASE) == 1.25


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff\xfe", b'{"answer": 1.0}', b"null"])
def test_a_damaged_file_is_ignored_and_replaced(tmp_path, damage):
    first = noise_multiplier(*CASE)
    (kept,) = files(tmp_path)
    kept.write_bytes(damage)
    forget()
    assert noise_multiplier(*CASE) == first
    assert json.loads(kept.read_text())["answer"] == first


def test_every_input_is_part_of_the_question(tmp_path):
    cases = [
        CASE,
        ("rdp", 1.0, 1e-5, 0.1, 100),
        ("pld", 1.1, 1e-5, 0.1, 100),
        ("pld", 1.0, 2e-5, 0.1, 100),
        ("pld", 1.0, 1e-5, 0.11, 100),
        ("pld", 1.0, 1e-5, 0.1, 101),
    ]
    values = [noise_multiplier(*case) for case in cases]
    assert len(files(tmp_path)) == len(set(values)) == len(cases)
    libraries = {json.loads(f.read_text())["question"]["library"] for f in files(tmp_path)}
    assert {name.split()[0] for name in libraries} == {"dp-accounting", "opacus"}
    assert all(name.split()[1][0].isdigit() for name in libraries)


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path, monkeypatch):
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("FFALORA_CACHE", str(blocker))
    assert noise_multiplier(*CASE) > 0


def test_stored_epsilon_answers_from_disk(tmp_path):
    value = Accountant("pld", 1e-5).stored([(1.0, 0.02, 100)])
    forget()
    assert Accountant("pld", 1e-5).stored([(1.0, 0.02, 100)]) == value
    assert len(files(tmp_path)) == 1


def test_infinite_epsilon_survives_the_cache():
    disk_cache.store({"q": 1}, float("inf"))
    assert disk_cache.load({"q": 1}) == float("inf")
    assert disk_cache.load({"q": 2}) is None


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (("rdp", 0.05, 1e-5, 0.01, 100), ["epsilon_target=0.05", "raise it to 0.104", "pld"]),
        (("prv", 0.005, 1e-5, 0.01, 100), ["epsilon_target=0.005", "raise it to 0.0101", "pld"]),
        (("rdp", 200.0, 1e-5, 1e-4, 5), ["epsilon_target=200", "noise_multiplier=0.2"]),
        (("gdp", 2.0, 1e-5, 0.01, 5), ["gdp", "refused"]),
    ],
)
def test_unreachable_targets_name_the_nearest_that_works(case, words, tmp_path):
    with pytest.raises(ConfigError) as error:
        noise_multiplier(*case)
    assert all(word in str(error.value) for word in words)
    assert not (tmp_path / "privacy").exists()


def test_the_nearest_that_works_works():
    assert Accountant("rdp", 1e-5).noise_for(0.104, 0.01, 100) > 1
