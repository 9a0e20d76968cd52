"""``hydra/launcher=stacked``: what a sweep is told of jobs that train together."""

from __future__ import annotations

import pytest

from ffalora_cli.records.run_directory import open_run
from ffalora_cli.stopping import StopFlag
from ffalora_cli.sweep.jobs import ALREADY, BUSY, DONE
from ffalora_cli.sweep.launchers.base import open_launcher
from ffalora_cli.sweep.play import play_jobs
from ffalora_cli.sweep.record import SweepRecord
from tests.tiny import save_tiny_bert
from tests.unit.test_together import planned, settings


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("model"))


def test_the_launcher_records_every_job_of_its_groups(model, tmp_path):
    runs = tmp_path / "runs"
    bad = planned(model, runs, *settings("seed=9"))
    jobs = [planned(model, runs, *settings("federation.rounds=1", f"seed={s}")) for s in (1, 2)]
    record = SweepRecord(runs, "sweep")
    jobs = [record.job(n, one, {"seed": str(n)}) for n, one in enumerate([*jobs, bad], start=1)]
    launch = open_launcher("stacked", {"n_jobs": "3"})

    class Seen:
        def changed(self, job, status):
            pass

    with open_run(runs, bad.config.name, bad.signature).claim():
        statuses = play_jobs(jobs, record, launch, Seen(), StopFlag())
    assert [statuses[n].state for n in (1, 2, 3)] == [DONE, DONE, BUSY]
    assert (
        statuses[3].ended.code == 2 and statuses[3].ended.error in jobs[2].command.log.read_text()
    )
    assert jobs[0].finished and "run folder" in jobs[0].command.log.read_text()
    again = play_jobs(jobs, record, launch, Seen(), StopFlag())
    assert [again[n].state for n in (1, 2, 3)] == [ALREADY, ALREADY, DONE]


def test_the_launcher_starts_nothing_after_a_stop(model, tmp_path):
    record = SweepRecord(tmp_path / "runs", "sweep")
    found = planned(model, tmp_path / "runs", *settings())
    changes = []
    open_launcher("stacked", {})(
        [record.job(1, found, {})], lambda *change: changes.append(change), lambda: 15
    )
    assert changes == [] and not record.job(1, found, {}).path.exists()
