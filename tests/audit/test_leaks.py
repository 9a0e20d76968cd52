"""What leaves of a run and of its neighbours: every unit, every tracker, page, card and export."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from ffalora_cli.audit.leaks import leaks
from ffalora_cli.audit.leaks.mirrors import at_hand
from ffalora_cli.audit.leaks.neighbours import VARIANTS, Neighbour, play_neighbours
from ffalora_cli.compose.jobs import plan
from ffalora_cli.config.job import Job
from ffalora_cli.keys import SecureKey
from ffalora_cli.records import leaving
from ffalora_cli.records.reading import read_run
from ffalora_cli.report.page import page
from tests.tiny import save_tiny_bert
from tests.trackers import wandb_offline

CLIENT = ("privacy=client", "federation.weights=uniform")
UNITS = {
    "text": ("privacy.unit=text",),
    "row": ("privacy.unit=row", "partition.keep_together=row"),
    "column": ("privacy.unit=column", "task.unit_column=text"),
    "adaptive": ("privacy.clip_quantile=0.5", "privacy.clip_count_noise=20"),
    "client": CLIENT,
    "local": (*CLIENT, "privacy.client_noise=local"),
}
SLOW = [name for name in UNITS if name != "text"]


@dataclass(frozen=True)
class Played:
    job: Job
    runs: list[Neighbour]


pytest.importorskip("trackio")


@pytest.fixture(scope="module")
def play(tmp_path_factory):
    folder = tmp_path_factory.mktemp("leaks")
    model = save_tiny_bert(folder / "model")
    done: dict[str, Played] = {}

    def played(name: str) -> Played:
        if name not in done:
            common = ["model=auto", f"model.source={model}", "debug=tiny", "task.max_length=256"]
            common += ["federation.rounds=2", "privacy.accountant=rdp", "privacy.noise=secure"]
            (job,) = plan([*common, *UNITS[name]])
            secret = SecureKey(b"k" * 32)
            done[name] = Played(job, play_neighbours(job, secret, folder / name))
        return done[name]

    with wandb_offline(folder / "home") as patch:
        patch.setenv("TRACKIO_DIR", str(folder / "trackio"))
        yield played


def failures(checks):
    return {check.name: check.text for check in checks if not check.passed}


def everything(played: Played):
    checks = [leaks.differ(played.runs), *leaks.page_checks(played.runs)]
    for tracker in at_hand():
        checks += leaks.tracker_checks(tracker, played.runs, played.job)
    return checks


@pytest.mark.parametrize(
    "unit", ["text", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_nothing_undeclared_leaves(play, unit):
    played = play(unit)
    checks = everything(played)
    assert failures(checks) == {}
    assert len(checks) == 1 + 2 + 2 * len(at_hand()) and {"wandb"} <= set(at_hand())


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["text", "client"])
def test_nothing_undeclared_is_exported(play, unit, tmp_path):
    played = play(unit)
    checks = leaks.export_checks(played.runs, played.job.config, tmp_path)
    assert failures(checks) == {} and len(checks) == 4


@pytest.fixture
def extra_line(monkeypatch):
    """A list that lets one more field leave, which it should not."""

    def add(*line):
        monkeypatch.setattr(leaving, "LINES", (line, *leaving.LINES))
        leaving._lines.cache_clear()
        leaving.kind.cache_clear()

    yield add
    monkeypatch.undo()
    leaving._lines.cache_clear()
    leaving.kind.cache_clear()


@pytest.mark.parametrize(
    ("field", "variants"),
    [
        ("manifest.data_fingerprints.train", VARIANTS[1:]),
        ("manifest.data_fingerprints.holdout", VARIANTS[1:]),
        ("manifest.identity.data.clients", VARIANTS[1:2]),  # a partition hash: rows are renumbered
        ("manifest.data.train.tokens", VARIANTS[1:]),
        ("manifest.client_sizes", VARIANTS[1:2]),
        ("metrics.train/loss", VARIANTS[1:]),
        ("metrics.train/examples", VARIANTS[1:2]),
        ("metrics.time/round_seconds", VARIANTS[1:]),
    ],
)
def test_a_field_that_tells_of_the_unit_is_named(play, extra_line, field, variants):
    played = play("text")
    extra_line(field, "public", "public")
    found = failures(leaks.tracker_checks("trackio", played.runs, played.job))
    assert [*found] == [f"leaves: trackio, {variant}" for variant in variants]
    assert all(f"{field} (differs and is declared public)" in text for text in found.values())


def test_a_field_that_no_line_names_is_named(play, monkeypatch):
    played = play("text")
    listed = tuple(line for line in leaving.LINES if line[0] != "metrics.eval/*")
    sent = {n.folder: leaks.tracked("trackio", n.folder, played.job) for n in played.runs}
    monkeypatch.setattr(leaks, "tracked", lambda tracker, folder, job: sent[folder])
    monkeypatch.setattr(leaving, "LINES", listed)
    leaving._lines.cache_clear()
    leaving.kind.cache_clear()
    try:
        found = failures(leaks.tracker_checks("trackio", played.runs, played.job))
    finally:
        monkeypatch.undo()
        leaving._lines.cache_clear()
        leaving.kind.cache_clear()
    assert len(found) == 2
    assert all("eval/accuracy (no line of the list lets it leave)" in t for t in found.values())


def test_a_page_that_looks_past_the_list_is_caught(play, monkeypatch):
    """The page as it was: made from the whole records, fingerprints and all."""
    monkeypatch.setattr(page, "released", lambda run: run)
    found = failures(leaks.page_checks(play("text").runs))
    assert len(found) == 2
    run = read_run(play("text").runs[0].folder)
    prints = run.manifest["data_fingerprints"]
    assert prints["train"] in page.page([run], leaks.Question())
    monkeypatch.undo()
    text = page.page([run], leaks.Question())
    assert not [value for value in prints.values() if value in text]


def test_neighbours_differ_in_one_unit_only(play):
    """Records, as they are at home: sizes, labels and fingerprints of the three data sets."""
    played = play("text")
    original, fewer, other = (read_run(n.folder).manifest for n in played.runs)
    rows = [m["data"]["train"]["rows"] for m in (original, fewer, other)]
    assert 0 < rows[0] - rows[1] <= 2 and rows[2] == rows[0]
    assert sum(original["client_sizes"]) - sum(fewer["client_sizes"]) == rows[0] - rows[1]
    assert other["client_sizes"] == original["client_sizes"]
    assert len({m["data_fingerprints"]["train"] for m in (original, fewer, other)}) == 3
    assert len({m["data_fingerprints"]["holdout"] for m in (original, fewer, other)}) == 3
    assert len({m["id"] for m in (original, fewer, other)}) == 1


def test_a_model_that_ignores_the_unit_proves_nothing(play):
    played = play("text")
    same = [replace(n, folder=played.runs[0].folder) for n in played.runs]
    assert not leaks.differ(same).passed
