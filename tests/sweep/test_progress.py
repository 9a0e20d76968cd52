"""Where jobs are and when they end, from rounds on disk; and how that looks."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest

from ffalora_cli.cli.screen.sweep_display import LiveSweepDisplay, PlainSweepDisplay
from ffalora_cli.methods.registry import headline
from ffalora_cli.sweep.jobs import Ended, Status
from ffalora_cli.sweep.progress import Progress, Watcher, total_remaining
from tests.sweep.cases import finish, sweep_of


def rounds(job, numbers, tail=""):
    job.path.mkdir(parents=True, exist_ok=True)
    with (job.path / "rounds.jsonl").open("a") as stream:
        for number in numbers:
            metrics = {"eval/accuracy": number / 100} if number % 2 == 0 else {"train/loss": 1.0}
            stream.write(json.dumps({"round": number, "metrics": metrics}) + "\n")
        stream.write(tail)


def test_pace_is_that_since_the_resume(tmp_path):
    _, (job,) = sweep_of(tmp_path, "federation.rounds=50")
    watcher = Watcher()
    assert watcher.look(job, 0.0) == Progress()
    rounds(job, range(11))
    assert watcher.look(job, 100.0) == Progress(10, 0.10, None)
    rounds(job, range(11, 16), tail='{"round": 16, "metr')
    # 5 rounds in 20 seconds, 35 to go; the metric is that of the last evaluated round
    assert watcher.look(job, 120.0) == Progress(15, 0.14, pytest.approx(140.0))
    assert watcher.look(job, 123.0).remaining == pytest.approx(137.0)


def test_only_the_end_of_a_long_file_is_read(tmp_path):
    _, (job,) = sweep_of(tmp_path, "federation.rounds=50")
    rounds(job, range(3000))
    assert (job.path / "rounds.jsonl").stat().st_size > 100_000
    assert Watcher().look(job) == Progress(2999, 29.98, None)


def test_time_left_of_all_jobs(tmp_path):
    _, jobs = sweep_of(tmp_path, "seed=range(6)", "federation.rounds=50")
    states = {1: Status("done", Ended(0, 100.0)), 2: Status("running"), 3: Status("running")}
    states |= {n: Status() for n in (4, 5, 6)}
    progress = {2: Progress(25, 0.1, 50.0), 3: Progress(0, None, None)}
    # all take 100 s: 50 + 100 of those that run, 300 of those that wait, two at a time
    assert total_remaining(jobs, states, progress) == pytest.approx(450 / 2)
    assert total_remaining(jobs, {j.number: Status() for j in jobs}, {}) is None


def test_the_headline_is_the_one_summaries_have(tmp_path):
    _, jobs = sweep_of(tmp_path, "method=ffa_lora,fedsa_lora")
    names = [headline(job.checked.config) for job in jobs]
    assert names == ["eval/accuracy", "eval/personalized_accuracy"]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (140, 40)])
def test_live_table_fits_the_screen_and_shows_what_matters(tmp_path, width, height):
    from rich.console import Console

    axes = ["method=lora,ffa_lora", "federation.local_lr=0.1,0.5", "seed=range(20)"]
    record, jobs = sweep_of(tmp_path, *axes, "federation.rounds=50")
    stream = io.StringIO()
    console = Console(file=stream, width=width, height=height, color_system=None)
    display = LiveSweepDisplay(record.path, len(jobs), console)
    display.add(jobs)
    finish(jobs[0])
    rounds(jobs[40], range(11))
    display.statuses |= {1: Status("done", Ended(0, 321.0)), 41: Status("running")}
    display.statuses[60] = Status("failed", Ended(1, 12.0, "x"))
    console.print(display.view())
    lines = stream.getvalue().splitlines()
    assert len(lines) <= height - 1
    assert max(map(len, lines)) <= width
    (row,) = [line.split() for line in lines if " running " in line and line.split()[0] == "41"]
    assert row == ["41", "ffa_lora", "0.1", "0", "running", "10/50", "10.0", "%"]
    assert [line.split()[0] for line in lines if "failed " in line][:1] == ["60"]
    assert lines[-2].startswith("80 jobs: 1 running, 1 failed, 77 waiting, 1 done")


def test_plain_lines_say_each_change_and_the_error(tmp_path):
    record, jobs = sweep_of(tmp_path, "seed=0,1")
    stream = io.StringIO()
    display = PlainSweepDisplay(record.path, 2, stream)
    display.add(jobs)
    finish(jobs[0])
    display.changed(jobs[0], Status("done", Ended(0, 65.0)))
    display.changed(jobs[1], Status("failed", Ended(1, 5.0, "run failed: diverged")))
    assert stream.getvalue().splitlines() == [
        "job 1/2  seed=0  done  50.0 %  1:05",
        "job 2/2  seed=1  failed  0:05  run failed: diverged",
    ]


@pytest.mark.parametrize("width", [40, 60, 80])
def test_no_number_is_cut_on_a_narrow_screen(tmp_path, width, monkeypatch):
    from rich.console import Console

    record, jobs = sweep_of(tmp_path, "federation.local_lr=0.0123456,0.5", "seed=100234,0")
    console = Console(file=io.StringIO(), width=width, height=24, color_system=None)
    display = LiveSweepDisplay(record.path, len(jobs), console)
    display.add(jobs)
    finish(jobs[0])
    display.statuses |= {1: Status("done", Ended(0, 36_543.0))}
    console.print(display.view())
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "\u2026" not in text
    row = text.splitlines()[1].split()
    assert {"1", "0.01235", "100234", "done", "50.0", "%"} <= set(row)
    assert ("10:09:03" in row) == (width > 40)


def test_the_table_of_many_jobs_is_of_those_that_matter(tmp_path):
    record, (first, *_) = sweep_of(tmp_path, "seed=0,1")
    jobs = [dataclasses.replace(first, number=n) for n in range(1, 1001)]
    stream = io.StringIO()
    display = PlainSweepDisplay(record.path, len(jobs), stream)
    display.add(jobs)
    for number in (7, 900):
        display.statuses[number] = Status("failed", Ended(1, 5.0, "run failed: diverged"))
    display.finished()
    lines = stream.getvalue().splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["7", "900"]
    assert lines[3:5] == [
        "and 998 other jobs; all are in the record",
        "job 7, 900: run failed: diverged",
    ]
    assert lines[5].startswith("1,000 jobs: 2 failed, 998 waiting")
