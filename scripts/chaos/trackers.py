"""Breaking trackers: absent, hanging, failing, killed; real W&B (offline), TensorBoard and Trackio.

After every trial ``ffalora sync`` sends what is missing. Then the local result has to be that of a
run without a tracker, and the tracker has to have every round once, read back from its own files.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sqlite3
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from scripts.chaos.breaks import calls, fresh, unbroken
from scripts.chaos.workload import Row, Workload, kill_at, result, rounds_on_disk, workloads

NAMES = ("wandb", "tensorboard", "trackio")
_CALLS = ("_open", "_write", "_close")
FAULTS = (
    "none",
    "absent",
    "killed",
    *(f"{how} {at}" for at in _CALLS for how in ("hanging", "failing")),
)
_FINISH_SECONDS = 1.0  # that a hanging tracker may hold up the end of a trial
_TIMES, _METHODS = "tracker_seconds.json", ("start", "log", "finish")
_ROUNDS = 5
_RECORDS = _ROUNDS + 1  # evaluation before training has one, too


def trackers(count: int, seed: int = 0) -> Row:
    """Break ``count`` trackers; compare result and tracker; the run's time spent on trackers."""
    row = Row(
        "trackers absent, hanging, failing, killed, resumed",
        "no round lost, no point dropped or doubled, < 1 % of time",
    )
    generator = random.Random(seed)
    with workloads(["private"], rounds=_ROUNDS) as (built, root):
        load = built["private"]
        wanted = unbroken(load, root)
        total = calls(load, root)
        cases = [(name, fault) for fault in FAULTS for name in NAMES]
        times = []
        for number in range(count):
            name, fault = cases[number % len(cases)]
            folder = root / f"trial-{number}"
            fresh(folder)
            tracked = _tracked(load, name)
            at = generator.randrange(total // 4, total)
            wrong = _trial(tracked, folder, name, fault, at, wanted)
            row.count(wrong and f"{name} {fault}: {wrong}")
            if (folder / _TIMES).exists():
                times.append(json.loads((folder / _TIMES).read_text()))
        _say_times(row, times)
    return row


def _say_times(row: Row, times: list[dict[str, float]]) -> None:
    """Medians over the trials: what the run waits for at the start, in a round and at the end."""
    if not times:
        return
    shares = [100 * (t["start"] + t["log"]) / t["total"] for t in times]
    start, log, finish = (statistics.median(t[key] for t in times) for key in _METHODS)
    row.notes.append(
        f"{statistics.median(shares):.2f} % of runs of "
        f"{statistics.median(t['total'] for t in times):.1f} s in tracker calls (most "
        f"{max(shares):.2f} %): {1e3 * start:.1f} ms to start, {1e6 * log / _RECORDS:.0f} "
        f"microseconds a round; {finish:.1f} s at the end"
    )


def _tracked(load: Workload, name: str) -> Workload:
    tracking = replace(
        load.job.config.tracking,
        name=name,
        mode="offline",
        private_metrics=True,  # faults between rounds need rounds that are sent
    )
    job = replace(load.job, config=replace(load.job.config, tracking=tracking))
    parts = replace(load.parts, config=replace(load.parts.config, tracking=tracking))
    return replace(load, job=job, parts=parts)


def _trial(load: Workload, folder: Path, name: str, fault: str, at: int, wanted: str) -> str | None:
    """One fault, the resume after it where it was a kill, and a sync; says what is wrong."""
    run = folder / "run"
    if fault == "killed":
        load.trial(folder, lambda: (_isolate(folder), kill_at(at)()))
        fault = "none"
    code, said = load.trial(folder, lambda: (_isolate(folder), _time(folder), _break(name, fault)))
    if code or result(run) != wanted:
        return f"{code} {said[:200]}"
    if ("tracker off" in said) != (fault != "none"):
        return f"it said {said[:200]!r}"
    code, said = load.trial(folder, lambda: (_isolate(folder), _sync(run)))
    if code:
        return f"sync: {said[:200]}"
    for _ in range(100):  # W&B's own process may still be writing
        found = Counter(_tracked(name, folder))
        if sum(found.values()) >= rounds_on_disk(run):
            break
        time.sleep(0.1)
    if found != Counter(range(rounds_on_disk(run))):
        return f"the tracker has {sorted(found.elements())}"
    return None


def _isolate(folder: Path) -> None:
    """In the child: no network, no account, nothing outside the trial's folder."""
    os.environ.update(
        WANDB_MODE="offline",
        WANDB_CACHE_DIR=str(folder / "cache"),
        WANDB_CONFIG_DIR=str(folder / "config"),
        WANDB_DATA_DIR=str(folder / "data"),
        TRACKIO_DIR=str(folder / "trackio"),
    )


def _break(name: str, fault: str) -> None:
    """In the child: the package is not there, or one of the tracker's calls hangs or raises."""
    from ffalora_cli.records.trackers import worker

    if fault == "none":
        return
    worker.FINISH_SECONDS = _FINISH_SECONDS
    if fault == "absent":
        for module in [m for m in sys.modules if m.split(".")[0] == name]:
            del sys.modules[module]
        sys.modules[name] = None  # type: ignore[assignment]
        return
    how, where = fault.split()
    forever = threading.Event()

    def raise_(*_: object) -> None:
        raise SystemExit("no such server")

    tracker = importlib.import_module(f"ffalora_cli.records.trackers.{name}").TRACKER
    setattr(tracker, where, raise_ if how == "failing" else lambda *_: forever.wait())


def _time(folder: Path) -> None:
    """In the child: how long the run waits for its tracker, into a file when it ends."""
    from ffalora_cli.records.trackers.worker import BackgroundTracker

    spent, began = Counter(), time.perf_counter()  # type: ignore[var-annotated]

    def timed(name: str) -> Callable[..., None]:
        original = getattr(BackgroundTracker, name)

        def call(*args, **more):
            start = time.perf_counter()
            original(*args, **more)
            spent[name] += time.perf_counter() - start
            if name == "finish":
                times = {**spent, "total": start - began}
                (folder / _TIMES).write_text(json.dumps(times))

        return call

    for name in _METHODS:
        setattr(BackgroundTracker, name, timed(name))


def _sync(run: Path) -> None:
    """In the child: ``ffalora sync``."""
    from ffalora_cli.cli.main import main

    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if main(["sync", str(run)]):
        raise RuntimeError("sync failed")


def _tracked(name: str, folder: Path) -> list[int]:
    """Rounds in the tracker's own files, as often as they are there."""
    from ffalora_cli.records.trackers.tensorboard import events
    from ffalora_cli.records.trackers.wandb_file import rounds_in

    if name == "wandb":
        files = (folder / "run").glob("wandb/offline-run-*/*.wandb")
        return [number for file in files for number in rounds_in(file, "/ffalora")]
    if name == "tensorboard":
        files = (folder / "run" / "tensorboard").glob("events*")
        steps = [e.step for file in files for e in events(file) if e.HasField("summary")]
        return [step for step in steps if step >= 0]
    with sqlite3.connect(folder / "trackio" / "ffalora.db") as store:
        return [step for (step,) in store.execute("SELECT step FROM metrics")]
