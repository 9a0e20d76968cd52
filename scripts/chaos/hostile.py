"""Hostile configs, records, checkpoints, models and rows: each ends in one line, nothing happens.

Every case of ``PLANTED`` damages a copy of a real unfinished run, a model folder or a task folder,
and is met through the real command line in this process. ``Watch`` sees code that is run and writes
outside; ``victim`` stands for the file outside that planted links point to.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ffalora_cli.cli.main import main
from scripts.chaos import secrets as chaos_secrets
from scripts.chaos.breaks import calls
from scripts.chaos.planted import PLANTED
from scripts.chaos.scene import Scene
from scripts.chaos.typed import TYPED
from scripts.chaos.watch import HangError, Watch
from scripts.chaos.workload import Row, Workload, cache_in, kill_at, overrides, tiny_model

VICTIM = b"not yours\n" * 100


def hostile(count: int = 0, seed: int = 0) -> Row:
    """All hostile cases once; ``count`` and ``seed`` choose nothing here."""
    del count, seed
    row = Row("hostile configs, adapters, records, paths", "one line, sentinel never created")
    with stage() as scene:
        for name in (*TYPED, *PLANTED):
            row.count(wrong(scene, name))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    row.notes.append(f"peak memory {peak} MiB, torch included")
    return row


@contextlib.contextmanager
def stage() -> Iterator[Scene]:
    """A run that stopped on the way, its model, and a watch over the folder they lie in."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="ffalora-hostile-") as name:
        root = Path(name).resolve()
        with cache_in(root):
            settings = overrides(tiny_model(root / "model"), "private")
            load = Workload.build(settings)
            half = calls(load, root / "counting") // 2  # some rounds are on disk, others are not
            load.trial(root / "begun", kill_at(half))
            os.chdir(root)
            try:
                yield Scene(root, settings, Watch(root))
            finally:
                os.chdir(before)


def wrong(scene: Scene, name: str) -> str | None:
    """Meet one case; what is wrong with how it ended."""
    scene.fresh(VICTIM)
    arguments = PLANTED[name](scene) if name in PLANTED else ["run", *TYPED[name]]
    held = {f: f.read_bytes() for f in scene.outside.rglob("*") if f.is_file()}
    try:
        code, said, shown = met(scene, arguments)
    except HangError as error:
        return f"{name}: {error}"
    now = {f: f.read_bytes() for f in scene.outside.rglob("*") if f.is_file()}
    lines = said.splitlines()
    if scene.sentinel.exists():
        return f"{name}: the sentinel was created"
    if now != held:
        return f"{name}: something outside was written"
    if scene.watch.seen:
        return f"{name}: {scene.watch.seen[0]}"
    if name.startswith("state: ") and code == 0 and not lines:
        return _without_note(name, shown)
    if code not in (1, 2) or len(lines) != 1 or "Traceback" in said:
        return f"{name}: exit code {code}: {said[:300]}"
    return None


def _without_note(name: str, shown: str) -> str | None:
    """A run may start over from forged checkpoints, if it says that they were set aside."""
    said = " ".join(shown.split())
    for words in ("is damaged (", "; kept as ", "no checkpoint holds; starting at round 1 again"):
        if words not in said:
            return f"{name}: started over without saying {words!r}: {said[:300]}"
    return None


def met(scene: Scene, arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, standard error and standard output of a command line, watched.

    Raises:
        HangError: after five seconds of work or, for what waits (a pipe), a minute of the clock.
    """
    errors, shown = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(shown):
        scene.watch.seen.clear()
        with scene.watch.armed(cpu_seconds=5.0, seconds=60.0):
            code = main(arguments)
    return code, errors.getvalue(), shown.getvalue()


def malformed(count: int, seed: int = 0) -> Row:
    """The wrong configs of the tests in processes of their own: seconds, line, exit code."""
    import random

    from tests.compose.test_malformed_configs import CASES

    row, seconds = Row("malformed configs", "one line <= 200, exit 2, < 1.5 s"), []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for typed in random.Random(seed).sample(sorted(CASES), min(count, len(CASES))):
        command = [sys.executable, "-m", "ffalora_cli.cli.main", "run", *typed.split()]
        with tempfile.TemporaryDirectory(prefix="ffalora-malformed-") as folder:
            began = time.monotonic()
            done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
            seconds.append(time.monotonic() - began)
            left = list(Path(folder).iterdir())
        fine = done.returncode == 2 and done.stderr.count("\n") == 1 and not left
        fine = fine and len(done.stderr) <= 201 and all(w in done.stderr for w in CASES[typed])
        row.count(None if fine else f"{typed}: {done.returncode} {done.stderr[-200:]}")
    seconds.sort()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    work = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    row.notes.append(f"median {seconds[len(seconds) // 2]:.2f} s, slowest {seconds[-1]:.2f} s")
    row.notes.append(f"{work / len(seconds):.2f} s of a processor each")  # whoever else is busy
    return row


secrets = chaos_secrets.secrets
